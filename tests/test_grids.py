"""Grids: what is read, refused and planned, before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from il2m.errors import InputError
from il2m.grids import NOTEBOOKS, Job, find_notebooks, notebook_parameters, plan_jobs, read_grid, read_overrides

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny_grid(tiny_npz: Path, tmp_path: Path) -> dict:
    return {"dataset": str(tiny_npz), "num_states": 3, "memory_size": 12, "out_dir": str(tmp_path)}


def plan(given: dict, out_dir: Path) -> dict[str, list[Job]]:
    jobs = plan_jobs({name: v for name, v in given.items() if name != "out_dir"}, find_notebooks(), out_dir)
    return {notebook: [job for job in jobs if job.notebook == notebook] for notebook in NOTEBOOKS}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_grids_name_known_parameters(path: Path):
    known = set().union(*(notebook_parameters(find_notebooks() / f"{name}.ipynb") for name in NOTEBOOKS))
    assert set(read_grid(path)) <= known


def test_quickstart_trains_one_base_for_both_settings_of_distillation(tmp_path: Path):
    jobs = plan(read_grid(ROOT / "notebooks" / "grids" / "quickstart.yaml"), tmp_path)
    assert [len(jobs[notebook]) for notebook in NOTEBOOKS] == [1, 2, 2, 2]
    assert [job.parameters["distillation"] for job in jobs[NOTEBOOKS[1]]] == [False, True]
    assert {job.parameters["base"] for job in jobs[NOTEBOOKS[1]]} == {jobs[NOTEBOOKS[0]][0].run}


def test_stages_are_shared_and_ordered(tiny_grid: dict, tmp_path: Path):
    jobs = plan(tiny_grid | {"memory_size": [12, 24], "train_seed": [0, 1], "distillation": False}, tmp_path)
    assert [len(jobs[notebook]) for notebook in NOTEBOOKS] == [2, 4, 4, 4]  # a base per seed, shared by both K
    for job in jobs[NOTEBOOKS[1]]:
        assert job.after == (f"{NOTEBOOKS[0]}-{job.parameters['base']}",)
    for job in jobs[NOTEBOOKS[3]]:
        assert job.after == (f"{NOTEBOOKS[1]}-{job.run}",)
        assert job.beside == job.after  # no twin in distillation


def test_analyses_wait_for_the_twin_in_distillation(tiny_grid: dict, tmp_path: Path):
    jobs = plan(tiny_grid | {"distillation": [False, True], "memory_size": [12, 24]}, tmp_path)
    for job in jobs[NOTEBOOKS[2]]:
        assert len(job.beside) == 2
        assert job.after[0] in job.beside


def test_a_notebooks_own_list_is_swept(tiny_grid: dict, tmp_path: Path):
    assert notebook_parameters(find_notebooks() / f"{NOTEBOOKS[1]}.ipynb")["distillation"] == [False, True]
    assert len(plan(tiny_grid, tmp_path)[NOTEBOOKS[1]]) == 2


def test_list_parameters_are_swept_by_lists_of_lists(tiny_grid: dict, tmp_path: Path):
    one = plan(tiny_grid | {"state_sizes": [2, 4]}, tmp_path)
    assert one[NOTEBOOKS[0]][0].parameters["state_sizes"] == [2, 4]
    two = plan(tiny_grid | {"state_sizes": [[2, 4], [4, 2]]}, tmp_path)
    assert [job.parameters["state_sizes"] for job in two[NOTEBOOKS[0]]] == [[2, 4], [4, 2]]


def test_relative_paths_start_where_the_user_is(tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny_npz.parent)
    jobs = plan({"dataset": tiny_npz.name, "num_states": 3}, tmp_path)
    assert jobs[NOTEBOOKS[0]][0].parameters["dataset"] == str(tiny_npz)


def test_all_bad_names_and_values_are_told_at_once(tiny_grid: dict, tmp_path: Path):
    with pytest.raises(InputError) as error:
        plan(tiny_grid | {"memory_sise": 3, "epochs": [0, 2], "network": "resnet19"}, tmp_path)
    message = str(error.value)
    assert "unknown parameter 'memory_sise': did you mean 'memory_size'?" in message
    assert "epochs = 0: expected a whole number of at least 1" in message
    assert "network = 'resnet19': expected one of small" in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_states": 4}, "does not divide the dataset's 6 classes"),
        ({"memory_size": 3}, "less than one image per past class at state 3.*the smallest memory_size .* is 4"),
        ({"dataset": "glyfs"}, "unknown dataset 'glyfs': did you mean 'glyphs'"),
        ({"dataset": "nowhere.npz"}, "no file .*nowhere.npz"),
        ({"epochs": []}, "epochs = .*at least one"),
        ({"class_order": [0, 1, 2, 3, 4, 4]}, r"missing: \[5\]"),
    ],
)
def test_stages_that_cannot_work_are_refused(tiny_grid: dict, tmp_path: Path, given: dict, expected: str):
    with pytest.raises(InputError, match=expected):
        plan(tiny_grid | given, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parameters: [1, 2]", "expected 'description' and 'parameters'"),
        ("just words", "expected 'description' and 'parameters'"),
        ("parametres: {}", "unknown key 'parametres': did you mean 'parameters'"),
        ("parameters: {a: [}", "not valid YAML"),
        ("parameters: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_files_that_are_no_grid_are_refused(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_grid(path)


def test_a_missing_grid_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(f"can't read the grid {tmp_path / 'no.yaml'}")):
        read_grid(tmp_path / "no.yaml")


def test_overrides_are_yaml():
    texts = ["epochs=3", "learning_rate=0.5", "distillation=[false, true]", "dataset=a=b.npz"]
    assert read_overrides(texts) == {
        "epochs": 3, "learning_rate": 0.5, "distillation": [False, True], "dataset": "a=b.npz",
    }  # fmt: skip
    with pytest.raises(InputError, match="expected name=value"):
        read_overrides(["epochs"])


def test_numbers_with_an_exponent_are_numbers():
    assert read_overrides(["weight_decay=1e-4", "learning_rate=2.5E-1"]) == {
        "weight_decay": 1e-4,
        "learning_rate": 0.25,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"out_dir": "/elsewhere"}, "out_dir can't be given to a whole study: use --out"),
        ({"base": "base-x"}, "base can't be given to a whole study"),
        ({"run": "x"}, "run can't be given to a whole study"),
        ({"undefined": ["keep", "raise"]}, "undefined = .*can't be swept"),
        ({"order_seed": None}, "order_seed = None: expected a whole number"),
    ],
)
def test_what_a_study_chooses_itself_can_not_be_given(tiny_grid: dict, tmp_path: Path, given: dict, expected: str):
    parameters = {name: value for name, value in tiny_grid.items() if name != "out_dir"} | given
    with pytest.raises(InputError, match=expected):
        plan_jobs(parameters, find_notebooks(), tmp_path)
