"""A data set is known by what it holds: fingerprints as they ever were, and anew for what a loader has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import make_tiny_arrays

import il2m
from il2m.data import sources
from il2m.data.dataset import Dataset
from il2m.data.image_files import ImageFiles
from il2m.data.lists import given_exemplars
from il2m.data.sources import dataset_from_arrays, load_dataset
from il2m.data.states import States
from il2m.errors import InputError
from il2m.exchange.prepare import make_lists
from il2m.study.planning import plan_base

OPTIONS = {"image_size": 8, "num_workers": 0}


@pytest.fixture(autouse=True)
def datasets_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOADERS", "_SOURCES"):
        monkeypatch.setattr(sources, name, dict(getattr(sources, name)))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """4 classes, 3 files to train and 2 to validate each; a fingerprint is of their names and sizes."""
    for part, count in (("train", 3), ("val", 2)):
        for label in range(4):
            for i in range(count):
                path = tmp_path / "im" / part / f"class {label}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x" * (1 + label + 5 * i + 20 * (part == "val")))
    return tmp_path / "im"


@pytest.fixture
def lists(files: Path, tmp_path: Path) -> Path:
    options = {"memory_sizes": [4, 8], "num_states": 2, "relative_to": files}
    return make_lists([str(files)], tmp_path / "lists", name="n", **options)


def registered(loaded: Dataset, data_dir: Path) -> Dataset:
    """What load_dataset makes of a loader that returns it."""
    sources._LOADERS["mine"] = lambda data_dir: loaded
    return load_dataset("mine", data_dir, **OPTIONS)


def test_fingerprints_are_those_of_before(files: Path, lists: Path, tmp_path: Path):
    """Of the commit b545ed9; finished runs are known by them."""
    np.savez(tmp_path / "a.npz", **make_tiny_arrays())
    known = {
        f"folder:{files}": "085272df2ad1208b",
        f"folder:{files / 'train'}": "8ff7b84f2dd2231e",
        f"lists:{lists}": "bc5a6feec41d813d",
        str(tmp_path / "a.npz"): "b360acd2c590dcf5",
    }
    for name, fingerprint in known.items():
        data = load_dataset(name, files)
        assert data.fingerprint == fingerprint
        assert registered(data, files).fingerprint == fingerprint, "a loader that changes nothing"


@pytest.mark.parametrize("change", ["images", "labels", "class names"])
def test_arrays_that_a_loader_changed_are_another_data_set(change: str, tmp_path: Path):
    arrays = make_tiny_arrays()
    whole = dataset_from_arrays("whole", arrays)
    if change == "images":
        changed, arrays["x_train"] = replace(whole, train_images=255 - whole.train_images), 255 - arrays["x_train"]
    elif change == "labels":
        labels = np.where(np.arange(len(whole.train_labels)) < 3, 5, whole.train_labels)
        changed, arrays["y_train"] = replace(whole, train_labels=labels), labels
    else:
        changed, arrays["class_names"] = replace(whole, class_names=tuple("abcdef")), np.array([*"abcdef"])
    found = registered(changed, tmp_path)
    assert found.fingerprint == dataset_from_arrays("alone", arrays).fingerprint != whole.fingerprint
    sources._LOADERS["whole"] = lambda data_dir: whole
    plans = [plan_base(dataset=name, num_states=3, out_dir=str(tmp_path)) for name in ("mine", "whole")]
    assert plans[0].folder != plans[1].folder, "a base of one is none of the other"


def test_arrays_of_a_loaders_dataset_are_checked(tmp_path: Path):
    whole = dataset_from_arrays("whole", make_tiny_arrays())
    with pytest.raises(InputError, match="mine: x_train has dtype float64; expected uint8"):
        registered(replace(whole, train_images=whole.train_images / 255), tmp_path)
    with pytest.raises(InputError, match="mine: y_train has dtype float64; expected whole numbers"):
        registered(replace(whole, train_labels=whole.train_labels + 0.5), tmp_path)


def test_image_files_that_a_loader_chose_or_relabelled_are_another_data_set(files: Path):
    whole = load_dataset(f"folder:{files}", files)
    kept = np.flatnonzero(np.arange(len(whole.train_labels)) % 3 < 2)
    few = replace(whole, train_images=whole.train_images[kept], train_labels=whole.train_labels[kept])
    found = registered(few, files)
    assert (found.name, found.train_images.shape) == ("mine", (8, 8, 8, 3))
    for label in range(4):  # by hand: the same files without the third of each class
        (files / "train" / f"class {label}" / "2.png").unlink()
    assert found.fingerprint == load_dataset(f"folder:{files}", files).fingerprint != whole.fingerprint
    noisy = replace(few, train_labels=np.array([0, 1, 1, 1, 2, 2, 3, 3]))
    assert registered(noisy, files).fingerprint not in (found.fingerprint, whole.fingerprint)


def test_image_files_of_elsewhere_are_named_by_their_paths(files: Path):
    whole, paths = load_dataset(f"folder:{files}", files), np.array([str(files / "val" / "class 0" / "0.png")] * 4)
    other = replace(whole, val_images=ImageFiles(paths), val_labels=np.arange(4))
    with pytest.warns(UserWarning, match="1 images occur more than once among the validation images"):
        assert registered(other, files).fingerprint != whole.fingerprint


def test_image_files_of_a_loader_are_of_all_classes_each_with_a_label_and_a_name(files: Path, lists: Path):
    whole = load_dataset(f"folder:{files}", files)
    some = whole.train_labels < 3
    part = replace(whole, train_images=whole.train_images[some], train_labels=whole.train_labels[some])
    with pytest.raises(InputError, match=r"training images are not of the 4 classes: see class\(es\) \[3\]"):
        registered(part, files)
    with pytest.raises(InputError, match="mine: an array of labels has shape \\(9,\\); expected \\(12,\\)"):
        registered(replace(whole, train_labels=part.train_labels), files)
    with pytest.raises(InputError, match="an array of labels has dtype float64"):
        registered(replace(whole, train_labels=whole.train_labels + 0.5), files)
    with pytest.raises(InputError, match="4 class names for 4 classes; expected one each, no two alike"):
        registered(replace(whole, class_names=("a", "b", "b", "c")), files)
    listed = load_dataset(f"lists:{lists}", files)
    with pytest.raises(InputError, match=r"lists/n/S~2: 3 class names for 4 classes"):  # which their states bring
        registered(replace(listed, class_names=listed.class_names[:3]), files)


def test_lists_of_a_loader_keep_their_states_and_exemplars(lists: Path, files: Path):
    whole = load_dataset(f"lists:{lists}", files)
    found = registered(whole, files)
    assert found.files.state_sizes == (2, 2)
    for of_state in (given_exemplars(data, 8, States((2, 2))) for data in (whole, found)):
        assert len(of_state[2]) == 6  # all that there are of two classes: 3 each


def test_images_of_differing_size_of_a_loader_are_told(tmp_path: Path):
    ragged = make_tiny_arrays() | {"x_train": [np.zeros((3, 3)), np.zeros((4, 4))]}
    il2m.register_dataset("ragged", lambda data_dir: ragged)
    with pytest.raises(InputError, match=r"'ragged' can't be loaded: ValueError.*images of differing size\?"):
        load_dataset("ragged", tmp_path)
