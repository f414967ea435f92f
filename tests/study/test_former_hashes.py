"""Until version 0.2 max_shift was part of what names a run of image files, though it has no effect on them."""

import numpy as np
import pytest
from PIL import Image

from il2m.results.description import run_recipe
from il2m.study.find import effective
from il2m.study.planning import plan_base, plan_fine_tuning
from il2m.study.runs import Run

SETTINGS = {"num_states": 2, "image_size": 8, "num_workers": 0}


@pytest.fixture
def images(tmp_path):
    """4 classes of 5 images each, in a folder per class."""
    rng = np.random.default_rng(0)
    for label in range(4):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return f"folder:{tmp_path / 'images'}"


def base_plan(images, tmp_path, **changed):
    return plan_base(dataset=images, out_dir=str(tmp_path / "study"), **SETTINGS | changed)


def test_it_has_no_say_any_more(images, tmp_path):
    assert "max_shift" not in base_plan(images, tmp_path).identity
    assert base_plan(images, tmp_path, max_shift=5).folder == base_plan(images, tmp_path).folder


def test_a_run_under_its_former_hash_is_found(images, tmp_path):
    plan = base_plan(images, tmp_path)
    former = Run.create(tmp_path / "study", "base", plan.identity | {"max_shift": 2}, **plan.notes)
    assert former.folder != plan.folder
    again = base_plan(images, tmp_path)
    assert (again.folder, again.identity) == (former.folder, former.identity)
    assert base_plan(images, tmp_path, max_shift=3).folder == plan.folder, "the former run was asked for with 2"

    def tuning(**changed):
        return plan_fine_tuning(
            base_plan=again, out_dir=str(tmp_path / "study"), memory_size=4, num_workers=0, **changed
        )

    new = tuning()
    assert "max_shift" not in new.identity
    old = Run.create(tmp_path / "study", "fine_tuning", new.identity | {"max_shift": 2}, **new.notes)
    assert tuning().folder == old.folder
    twin = tuning(distillation=True)
    assert "max_shift" not in twin.identity
    assert effective(twin.identity, "distillation") == effective(old.identity, "distillation"), "still twins"
    run = Run.create(tmp_path / "study", "fine_tuning", twin.identity, **twin.notes)
    assert run_recipe(run) == run_recipe(old)
    assert "max_shift" not in run_recipe(old)


def test_of_images_in_memory_it_has_a_say_as_before(tiny_npz, tmp_path):
    plans = [plan_base(dataset=str(tiny_npz), out_dir=str(tmp_path), num_states=3, max_shift=shift) for shift in (1, 2)]
    assert [plan.identity["max_shift"] for plan in plans] == [1, 2]
    assert plans[0].folder != plans[1].folder
