"""What goes together: every cell of the table in docs/parameters.md is tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from tiny import PROJECT

from il2m.errors import InputError
from il2m.exchange.prepare import make_lists
from il2m.methods.registry import METHODS, missing_for
from il2m.results.table import results_table
from il2m.study import stage
from il2m.study.planning import images_to_train_on, plan_fine_tuning
from il2m.study.reproduce import IDENTICAL, reproduce
from il2m.study.runs import Run
from il2m.study.stages import fine_tune, train_base

# 3 states of 2 classes: 4 past classes in the end
MEMORIES: dict[str, dict[str, Any]] = {
    "`memory_size` of at least one image per past class": {"memory_size": 8},
    "a smaller `memory_size`, `memory_rounding=ceil`": {"memory_size": 3},
    "a smaller `memory_size`, `memory_rounding=floor`": {"memory_size": 3, "memory_rounding": "floor"},
    "`memory_size=0`": {"memory_size": 0},
    "`exemplars_per_class`": {"exemplars_per_class": 2},
    "the lists' exemplars (`lists:`)": {"memory_size": 8},
    "`lists:` with a `memory_size` that they have no exemplars for": {"memory_size": 9},
    "`lists:`, `memory_size=0`": {"memory_size": 0},
    "`lists:`, `exemplars_per_class`": {"exemplars_per_class": 2},
}
ASKED: dict[str, dict[str, Any]] = {
    "`head=extended`": {"head": "extended"},
    "`freeze`": {"freeze": True},
    "`distillation`": {"distillation": True},
    "`exemplar_selection=herding`": {"exemplar_selection": "herding"},
    "`held_out`": {"held_out": 0.5},
    "`balanced_epochs`": {"balanced_epochs": 1},
}
TRAINING = {"batch_size": 8, "learning_rate": 0.05, "device": "cpu", "num_workers": 0}


def told() -> dict[tuple[str, str], str]:
    """(memory, what is asked) -> what the docs say of it."""
    section = (
        (PROJECT / "docs" / "parameters.md").read_text().partition("## What goes together")[2].partition("\n## ")[0]
    )
    head, _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return {(row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:], strict=True)}


def test_the_table_has_every_combination():
    assert set(told()) == {(memory, asked) for memory in MEMORIES for asked in ASKED}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> dict[bool, Run]:
    """Whether its images come in lists -> a trained base."""
    root = tmp_path_factory.mktemp("combinations")
    with np.load(tiny_npz) as arrays:
        for split, folder in (("train", "train"), ("test", "val")):
            for number, (image, label) in enumerate(zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)):
                path = root / "images" / folder / f"class {label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    lists = make_lists([str(root / "images")], root / "lists", name="it", num_states=3, memory_sizes=[3, 8])
    options = {"num_states": 3, "network": "small", "base_epochs": 1, **TRAINING}
    in_memory = train_base(out_dir=str(root / "array"), dataset=str(tiny_npz), max_shift=1, **options)
    listed = train_base(out_dir=str(root / "listed"), dataset=f"lists:{lists}", image_size=16, **options)
    return {False: in_memory, True: listed}


def given(bases: dict[bool, Run], memory: str) -> dict[str, Any]:
    """The parameters of fine-tuning with a memory."""
    base = bases["lists" in memory]
    shift = {} if "lists" in memory else {"max_shift": 1}
    return {"base": base, "out_dir": str(base.folder.parent), "epochs": 1} | TRAINING | shift | MEMORIES[memory]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("asked", ASKED)
def test_what_is_told_is_so(bases: dict[bool, Run], memory: str, asked: str):
    parameters, cell = given(bases, memory) | ASKED[asked], told()[memory, asked]
    if cell == "refused":
        with pytest.raises(InputError, match=re.compile("memory_size = (3 leaves less|0 keeps none|9)")):
            plan_fine_tuning(**parameters)
    else:
        assert cell.startswith("yes")
        plan_fine_tuning(**parameters)


@pytest.mark.parametrize("memory", MEMORIES)
def test_all_at_once_trains_and_is_analysed(bases: dict[bool, Run], memory: str):
    """Everything that goes with a memory, together: what is held out, what is left out, and numbers that are some."""
    cells = told()
    together = {asked: cell for asked, value in ASKED.items() if (cell := cells[memory, asked]) != "refused"}
    if not together:
        pytest.skip("nothing goes with this memory")
    parameters = given(bases, memory) | {name: value for asked in together for name, value in ASKED[asked].items()}
    run = fine_tune(**parameters)
    kept = [len(run.state(state).array("exemplar_labels")) for state in (2, 3)]
    held_out = [len(run.state(state).array("held_out_labels")) for state in (2, 3)]
    without_memory, ones = memory.endswith("`memory_size=0`"), "(1)" in together["`held_out`"]
    assert (sum(kept) == 0) == without_memory
    assert (held_out[-1] == 0) == (without_memory or ones)
    left_out = {method for method in METHODS if missing_for(run, method)}
    assert ("BiC" in left_out) == (without_memory or ones)
    assert ("IL2M" in left_out) == without_memory
    table = results_table(run, methods=METHODS)
    assert set(table["method"]) == set(METHODS) - left_out
    assert table["top1"].between(0, 1).all()


@pytest.mark.parametrize("memory_size", [3, 8])
def test_new_classes_count_as_many_images_as_lists_give_of_past_ones(bases: dict[bool, Run], memory_size: int):
    """K = 3 is 2 images of a class at state 2, and 1 at state 3: half of what lists hold is held out, all is trained
    on again in the balanced stage, and what is planned is what is done."""
    listed = given(bases, "the lists' exemplars (`lists:`)") | {"memory_size": memory_size, "held_out": 0.5}
    run, kept = (
        fine_tune(**listed),
        {2: memory_size // 2 + memory_size % 2, 3: memory_size // 4 + bool(memory_size % 4)},
    )
    for state, number in kept.items():
        stored = run.state(state)
        assert np.bincount(stored.array("exemplar_labels")).tolist() == [number] * (2 * state - 2)
        assert np.bincount(stored.array("held_out_labels"), minlength=2 * state).tolist() == [number // 2] * 2 * state
    balanced = listed | {"held_out": 0, "balanced_epochs": 1, "epochs": 2}
    planned = images_to_train_on(plan_fine_tuning(**balanced))
    for state, number in kept.items():
        once = 2 * 12 + number * (2 * state - 2)
        assert planned[state] == 2 * once + number * 2 * state
    with mock.patch("il2m.study.stage.train", wraps=stage.train) as train:
        fine_tune(**balanced)
    sizes = [len(call.args[1].labels) for call in train.call_args_list]
    assert sizes == [
        size for state, number in kept.items() for size in (24 + number * (2 * state - 2), number * 2 * state)
    ]


def test_a_run_of_lists_with_fewer_images_than_past_classes_is_made_again(bases: dict[bool, Run], tmp_path: Path):
    run = fine_tune(**given(bases, "the lists' exemplars (`lists:`)") | {"memory_size": 3})
    assert reproduce(run.folder, tmp_path / "again", num_workers=0).verdict == IDENTICAL


def test_where_lists_decide_the_selection_has_no_effect(bases: dict[bool, Run]):
    parameters = given(bases, "the lists' exemplars (`lists:`)")
    plans = [plan_fine_tuning(**parameters, exemplar_selection=selection) for selection in ("random", "herding")]
    assert plans[0].folder == plans[1].folder
