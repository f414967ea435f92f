"""Hashes of what shapes a run: those that version 0.1 gave, so that its runs are found, and paired with new ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from il2m.data.dataset import Dataset, FileSource
from il2m.data.sources import load_dataset
from il2m.parameters import FineTuning
from il2m.results.description import run_description
from il2m.study.find import effective
from il2m.study.planning import Plan, plan_base, plan_fine_tuning
from il2m.study.runs import Run
from il2m.system.hashes import short_hash

# settings of base and fine-tuning -> hashes of version 0.1 for tiny arrays: base, fine-tuning, setting, recipe, twins
# (setting and recipe hold no given class order and no temperature any more: theirs are new where these were given;
# nor does recipe the head, which has a column: its hashes are new)
CASES = {
    "defaults": ({}, {}, ("aa057cfccc", "7f547ddf34", "e505ccc687", "e47bb282e7", "42c052027e")),
    "no effect": (
        {"patience": 3, "summed_batches": 1, "image_size": 64, "num_workers": 0},
        {"temperature": 5.0, "held_out": 0, "balanced_epochs": 0, "patience": 1},
        ("aa057cfccc", "7f547ddf34", "e505ccc687", "e47bb282e7", "42c052027e"),
    ),
    "states": (
        {"state_sizes": [3, 1, 2], "class_order": [5, 4, 3, 2, 1, 0], "network": "resnet8"},
        {"memory_size": 6, "exemplar_selection": "herding", "head": "extended"},
        ("9f0baa5226", "ab54483f4c", "0a7879066e", "1c9616afda", "1a7b54de25"),
    ),
    "schedule": (
        {"schedule": "plateau", "patience": 4, "summed_batches": 8, "learning_rate": 1, "momentum": 0, "flip": True}
        | {"order_seed": 3},
        {"schedule": "plateau", "weight_decay": 0, "precision": "bf16", "train_seed": 2},
        ("0f10c344df", "81d7999a56", "e7eb488f05", "842f6cb1d9", "798c67bc4b"),
    ),
    "distillation": (
        {"max_shift": 1, "base_epochs": 2},
        {"distillation": True, "temperature": 3, "epochs": 2},
        ("53b4b2e717", "2674d54619", "09c414f447", "e2ba9faa9a", "16c710cd25"),
    ),
    "defaults of distillation": (
        {},
        {"distillation": True},
        ("aa057cfccc", "32ad0bbe83", "e505ccc687", "e47bb282e7", "42c052027e"),
    ),
    "per class": (
        {"train_seed": 1},
        {"exemplars_per_class": 3, "held_out": 0.25, "balanced_epochs": 5, "score_all_past": False},
        ("f4e6bcb443", "f4119683b5", "ff1c8a78d2", "cce3a39cb6", "278a17faa8"),
    ),
}

OFF = {"exif_rotation": "off"}  # of files that are not there


@pytest.fixture
def images(tiny_npz: Path) -> Dataset:
    return load_dataset(str(tiny_npz), ".")


@pytest.fixture
def image_files(images: Dataset) -> Dataset:
    """The same images, said to be in files: enough to plan by."""
    return replace(images, files=FileSource(Path(".")))


def plans(out_dir: Path, images: Dataset, of_base: dict, of_fine_tuning: dict) -> tuple[Plan, Plan]:
    base = plan_base(out_dir=str(out_dir), images=images, **{"num_states": 3} | of_base)
    return base, plan_fine_tuning(out_dir=str(out_dir), base_plan=base, **{"memory_rounding": "floor"} | of_fine_tuning)


def created(plan: Plan) -> Run:
    return Run.create(plan.folder.parent, plan.kind, plan.identity, **plan.notes)


@pytest.mark.parametrize("case", CASES)
def test_hashes_of_arrays_are_those_of_version_01(images, tmp_path, case):
    of_base, of_fine_tuning, expected = CASES[case]
    base, tuning = plans(tmp_path, images, of_base, of_fine_tuning)
    assert [base.folder.name, tuning.folder.name] == [f"base-{expected[0]}", f"fine_tuning-{expected[1]}"]
    created(base)
    about = run_description(created(tuning))
    assert (about["setting"], about["recipe"]) == expected[2:4]
    assert short_hash(effective(tuning.identity, "distillation")) == expected[4]


def test_a_class_order_names_the_same_run_however_it_is_given(images, tmp_path):
    ids = [3, 0, 5, 1, 4, 2]
    given = (ids, tuple(ids), np.array(ids).tolist(), [images.class_names[label] for label in ids])
    first, *others = (plan_base(out_dir=str(tmp_path), images=images, num_states=3, class_order=each) for each in given)
    assert all(other.identity == first.identity and other.notes == first.notes for other in others)
    icarl = plan_base(out_dir=str(tmp_path), images=images, num_states=3, class_order="icarl-1993")
    assert icarl.identity["class_order"] == np.random.RandomState(1993).permutation(6).tolist()
    assert icarl.notes["order_seed"] is None


def test_rounding_shapes_a_run_where_it_decides_what_is_kept(images, tmp_path):
    def tuned(**given):
        return plans(tmp_path, images, {}, given)[1].identity

    assert "memory_rounding" not in tuned(), "floor, as in version 0.1"
    assert tuned(memory_rounding="ceil")["memory_rounding"] == "ceil"
    assert tuned(memory_rounding="ceil", exemplars_per_class=3) == tuned(exemplars_per_class=3)
    for identity, rounding in ((tuned(), "floor"), (tuned(memory_rounding="ceil"), "ceil")):
        assert FineTuning.of_identity(identity).memory_rounding == rounding


def test_image_files_give_other_bits_than_in_version_01(image_files, images, tmp_path):
    versions = [plans(tmp_path, each, OFF, {})[1].identity["result_version"] for each in (images, image_files)]
    assert versions == [1, 2]


def test_runs_of_image_files_that_differ_in_max_shift_alone_are_one(image_files, tmp_path):
    names = {plans(tmp_path, image_files, OFF | {"max_shift": n}, {"max_shift": n + 1})[1].folder.name for n in (0, 2)}
    assert len(names) == 1
    sizes = {plans(tmp_path, image_files, OFF | {"image_size": n}, {})[1].folder.name for n in (64, 224)}
    assert len(sizes) == 2
