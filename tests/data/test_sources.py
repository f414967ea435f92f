"""Datasets: what is read, and a clear error for what can't be."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

import il2m
from il2m.data import sources
from il2m.data.glyphs import render_glyphs
from il2m.data.sources import absolute_source, dataset_from_arrays, load_dataset
from il2m.errors import InputError

DIFFERING = np.array([np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)], dtype=object)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_grey_and_colour_npz(tmp_path, channels):
    shape = (8, 6) if channels is None else (8, 6, channels)
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (4, *shape), dtype=np.uint8), "y_train": np.array([0, 1, 1, 0], np.int32),
        "x_test": rng.integers(0, 256, (2, *shape), dtype=np.uint8), "y_test": np.array([1, 0], np.uint8),
    }  # fmt: skip
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset = load_dataset(str(tmp_path / "mine.npz"), tmp_path)
    assert dataset.name == "mine"
    assert (dataset.num_classes, dataset.num_channels) == (2, channels or 1)
    assert dataset.class_names == ("0", "1")
    assert dataset.train_images.shape == (4, 8, 6, channels or 1)
    np.testing.assert_array_equal(dataset.train_images.ravel(), arrays["x_train"].ravel())
    np.testing.assert_array_equal(dataset.val_images.ravel(), arrays["x_test"].ravel())
    np.testing.assert_array_equal(dataset.train_labels, arrays["y_train"])
    np.testing.assert_array_equal(dataset.val_labels, arrays["y_test"])
    assert dataset.train_labels.dtype == dataset.val_labels.dtype == np.int64


def test_class_names_and_further_arrays(tmp_path, tiny_arrays):
    np.savez_compressed(tmp_path / "tiny.npz", **tiny_arrays, comment=np.array("what else the file holds is not read"))
    dataset = load_dataset(str(tmp_path / "tiny.npz"), tmp_path)
    assert dataset.class_names == tuple(f"class {c}" for c in range(6))


def test_fingerprint_tells_data_apart(tiny_arrays):
    fingerprint = dataset_from_arrays("a", tiny_arrays).fingerprint
    assert dataset_from_arrays("b", tiny_arrays).fingerprint == fingerprint
    for key in tiny_arrays:
        changed = {name: array.copy() for name, array in tiny_arrays.items()}
        if key == "class_names":
            changed[key][0] = "other"
        else:
            changed[key][:2] = changed[key][:2][::-1] if key.startswith("y") else 255 - changed[key][:2]
            changed[key][0] = (changed[key][0] + 1) % 6 if key.startswith("y") else changed[key][0]
        assert dataset_from_arrays("a", changed).fingerprint != fingerprint, key


def test_learning_order(tiny_arrays):
    dataset = dataset_from_arrays("tiny", tiny_arrays)
    order = np.array([3, 0, 5, 1, 4, 2])
    ordered = dataset.in_learning_order(order)
    for images, labels in ((ordered.train_labels, tiny_arrays["y_train"]), (ordered.val_labels, tiny_arrays["y_test"])):
        np.testing.assert_array_equal(order[images], labels)
    assert ordered.class_names == tuple(f"class {c}" for c in order)
    assert ordered.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(dataset.train_labels, tiny_arrays["y_train"], "the dataset itself is unchanged")


def without(key):
    return lambda arrays: arrays.pop(key)


def changed(key, change):
    return lambda arrays: arrays.update({key: change(arrays[key])})


def relabelled(key, old, new):
    return changed(key, lambda labels: np.where(labels == old, new, labels))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("y_test"), ["no y_test; found", "Expected x_train, y_train, x_test, y_test"]),
        (changed("x_train", lambda x: x.astype(np.float32)), ["x_train has dtype float32", "expected uint8"]),
        (changed("x_test", lambda x: x.astype(np.int64)), ["x_test has dtype int64", "expected uint8"]),
        (changed("x_train", lambda x: DIFFERING), ["x_train has dtype object", "images of differing size"]),
        (changed("x_train", lambda x: x[0]), ["x_train has shape (8, 8)", "expected (n, height, width)"]),
        (changed("x_train", lambda x: np.stack([x] * 4, -1)), ["x_train has shape (72, 8, 8, 4)", "for colour"]),
        (changed("x_test", lambda x: x[:0]), ["x_test has shape (0, 8, 8, 1)"]),
        (changed("x_test", lambda x: x[:, :7]), ["(8, 8, 1) and x_test of (7, 8, 1)", "one size"]),
        (changed("x_test", lambda x: np.stack([x] * 3, -1)), ["(8, 8, 1) and x_test of (8, 8, 3)"]),
        (changed("y_train", lambda y: y[:-1]), ["y_train has shape (71,); expected (72,)"]),
        (changed("y_test", lambda y: y[:, None]), ["y_test has shape (30, 1); expected (30,)"]),
        (changed("y_train", lambda y: y.astype(float)), ["y_train has dtype float64", "whole numbers 0..C-1"]),
        (changed("y_train", lambda y: y.astype(str)), ["y_train has dtype <U", "whole numbers 0..C-1"]),
        (relabelled("y_test", 0, -1), ["y_test has the label -1"]),
        (relabelled("y_train", 5, 6), ["0..6 without gaps", "y_train has no image of class(es) [5]"]),
        (relabelled("y_train", 2, 3), ["y_train has no image of class(es) [2]", "needs training images"]),
        (relabelled("y_test", 2, 3), ["y_test has no image of class(es) [2]", "needs validation images"]),
        (relabelled("y_test", 5, 2**40), ["y_test has the label 1099511627776", "without gaps"]),
        (changed("y_train", lambda y: y + 1), ["y_train has no image of class(es) [0]"]),
        (changed("class_names", lambda names: names[:5]), ["class_names has 5 names for 6 classes"]),
        (changed("class_names", lambda names: np.array([*"aabcde"])), ["6 names for 6 classes", "no two alike"]),
        (changed("x_train", lambda x: x.astype(np.uint16) * 257), ["dtype uint16", "(x // 257).astype('uint8')"]),
        (changed("class_names", lambda names: np.array("abcdef")), ["class_names", "6"]),
    ],
)  # fmt: skip
def test_malformed_arrays(tiny_arrays, damage, message):
    damage(tiny_arrays)
    with pytest.raises(InputError) as error:
        dataset_from_arrays("tiny", tiny_arrays, source="tiny.npz")
    assert str(error.value).startswith("tiny.npz: ")
    for part in message:
        assert part in str(error.value)


def test_missing_file(tmp_path):
    path = tmp_path / "none.npz"
    with pytest.raises(InputError, match=r"no file .*none\.npz: give the path of an \.npz file with x_train, y_train"):
        load_dataset(str(path), tmp_path)


def test_a_path_is_taken_as_one_and_capitals_are_too(tmp_path, tiny_npz):
    (tmp_path / "B.NPZ").write_bytes(tiny_npz.read_bytes())
    fingerprint = load_dataset(str(tiny_npz), tmp_path).fingerprint
    for path in (tiny_npz, tmp_path / "B.NPZ", str(tmp_path / "B.NPZ")):
        assert load_dataset(path, tmp_path).fingerprint == fingerprint
    assert absolute_source("B.NPZ", tmp_path) == str(tmp_path / "B.NPZ")
    with pytest.raises(InputError, match="would be read as a path"):
        il2m.register_dataset("mine.NPZ", lambda data_dir: {})


def test_images_of_differing_size_in_a_file(tmp_path, tiny_arrays):
    np.savez(tmp_path / "objects.npz", **{**tiny_arrays, "x_train": DIFFERING})
    with pytest.raises(InputError, match=r"objects\.npz: .* images of differing size\. All images must have one size"):
        load_dataset(str(tmp_path / "objects.npz"), tmp_path)


@pytest.mark.parametrize("damage", ["cut short", "bytes changed", "not an archive", "one array", "empty"])
def test_damaged_archive(tmp_path, tiny_npz, damage):
    path, content = tmp_path / "damaged.npz", bytearray(tiny_npz.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "bytes changed":
        content[500:600] = bytes(100)
    elif damage == "not an archive":
        content = b"x_train: none"
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        content = path.read_bytes()
    else:
        content = b""
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.npz: not a readable \.npz file"):
        load_dataset(str(path), tmp_path)


@pytest.mark.parametrize("content", ["no archive", b"\x80\x04]."])
def test_a_file_that_is_no_npz_is_not_answered_with_advice_to_unpickle_it(tmp_path, content):
    path = tmp_path / "notes.npz"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"notes\.npz: not a readable \.npz file: .* no \.npz at all") as error:
        load_dataset(str(path), tmp_path)
    assert "pickle" not in str(error.value)


def test_unknown_dataset(tmp_path):
    with pytest.raises(
        InputError, match=r"unknown dataset 'cifar-100': did you mean 'cifar100'\? .*path of an \.npz file"
    ):
        load_dataset("cifar-100", tmp_path)


@pytest.fixture
def few_glyphs(monkeypatch) -> list:
    """The real rendering, of fewer images; one entry is added each time it is called."""
    calls = []

    def render():
        calls.append(1)
        return render_glyphs(num_classes=4, train_per_class=5, val_per_class=2)

    monkeypatch.setattr(sources, "render_glyphs", render)
    return calls


def test_glyphs_are_cached_and_reused(tmp_path, few_glyphs):
    data_dir = tmp_path / "not yet there"
    first = load_dataset("glyphs", data_dir)
    (cache,) = data_dir.iterdir()
    written = cache.stat().st_mtime_ns
    second = load_dataset("glyphs", data_dir)
    assert len(few_glyphs) == 1
    assert cache.stat().st_mtime_ns == written
    assert (first.name, first.num_classes) == ("glyphs", 4)
    assert first.fingerprint == second.fingerprint
    assert first.class_names == second.class_names


def test_a_damaged_glyph_cache_is_rendered_again(tmp_path, few_glyphs):
    fingerprint = load_dataset("glyphs", tmp_path).fingerprint
    (cache,) = tmp_path.iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    assert load_dataset("glyphs", tmp_path).fingerprint == fingerprint
    assert len(few_glyphs) == 2
    assert load_dataset("glyphs", tmp_path).fingerprint == fingerprint
    assert len(few_glyphs) == 2, "the cache was mended"
    assert list(tmp_path.iterdir()) == [cache]


def write_cifar(data_dir: Path, name: str, images: dict[str, np.ndarray], labels: dict[str, list[int]]) -> None:
    """A few images (n, 32, 32, 3) in CIFAR's python format: rows of 3072 bytes, red plane first."""
    kind = getattr(torchvision.datasets, {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name])
    folder = data_dir / kind.base_folder
    folder.mkdir(parents=True)
    names = [f"name {c}" for c in range(1 + max(labels["train"]))]
    rows = {part: images[part].transpose(0, 3, 1, 2).reshape(len(images[part]), -1) for part in images}
    if name == "cifar100":
        files = {part: {"data": rows[part], "fine_labels": labels[part]} for part in ("train", "test")}
        files["meta"] = {"fine_label_names": names}
    else:  # the training images come in five files
        parts = [slice(i, None, 5) for i in range(5)]
        files = {
            f"data_batch_{i + 1}": {"data": rows["train"][p], "labels": labels["train"][p]} for i, p in enumerate(parts)
        }
        files |= {
            "test_batch": {"data": rows["test"], "labels": labels["test"]},
            "batches.meta": {"label_names": names},
        }
    for file_name, content in files.items():
        (folder / file_name).write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_from_local_files(tmp_path, monkeypatch, name):
    rng = np.random.default_rng(0)
    images = {part: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for part, n in (("train", 10), ("test", 4))}
    labels = {"train": [0, 1] * 5, "test": [1, 0, 0, 1]}
    write_cifar(tmp_path, name, images, labels)
    kind = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.CIFAR100
    for attribute in ("train_list", "test_list"):  # the published checksums are of the whole data
        monkeypatch.setattr(kind, attribute, [(file, None) for file, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    dataset = load_dataset(name, tmp_path)
    assert (dataset.name, dataset.class_names) == (name, ("name 0", "name 1"))
    order = np.concatenate([np.arange(10)[i::5] for i in range(5)]) if name == "cifar10" else np.arange(10)
    np.testing.assert_array_equal(dataset.train_images, images["train"][order])
    np.testing.assert_array_equal(dataset.train_labels, np.array(labels["train"])[order])
    np.testing.assert_array_equal(dataset.val_images, images["test"])
    np.testing.assert_array_equal(dataset.val_labels, labels["test"])


@pytest.mark.parametrize(("name", "archive"), [("cifar10", "cifar-10-python"), ("cifar100", "cifar-100-python")])
def test_cifar_without_local_files_nor_network(tmp_path, monkeypatch, name, archive):
    def download(self):
        raise OSError("the host does not answer")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)  # CIFAR100 inherits it
    with pytest.raises(InputError) as error:
        load_dataset(name, tmp_path)
    message = str(error.value)
    assert f"{name}: not found under {tmp_path}" in message
    assert "the download failed (the host does not answer)" in message
    assert f"{archive}.tar.gz" in message
    assert "dataset=PATH.npz" in message


def test_a_source_is_made_absolute(tmp_path):
    assert absolute_source("folder:a/../b", tmp_path) == f"folder:{tmp_path / 'b'}"
    assert absolute_source("lists:/x/S~2", tmp_path) == "lists:/x/S~2"
    assert absolute_source("my.npz", tmp_path) == str(tmp_path / "my.npz")
    assert absolute_source("cifar100", tmp_path) == "cifar100"


# data sets that users register


@pytest.fixture
def datasets_of_this_test(monkeypatch):
    for name in ("_LOADERS", "_SOURCES"):
        monkeypatch.setattr(sources, name, dict(getattr(sources, name)))


def test_a_registered_dataset_is_one_of_the_study(datasets_of_this_test, tiny_arrays, tmp_path):
    asked = []

    def load(data_dir):
        asked.append(data_dir)
        return {name: array.tolist() if name == "y_train" else array for name, array in tiny_arrays.items()}

    assert il2m.register_dataset("mine", load) is load
    data = load_dataset("mine", tmp_path)
    assert (data.name, asked) == ("mine", [tmp_path])
    assert data.fingerprint == dataset_from_arrays("tiny", tiny_arrays).fingerprint, "known by its content"
    il2m.register_dataset("same", lambda data_dir: data)
    assert load_dataset("same", tmp_path).fingerprint == data.fingerprint
    with pytest.raises(InputError, match=r"unknown dataset 'mino': did you mean 'mine'\?"):
        load_dataset("mino", tmp_path)


def test_a_registered_dataset_is_trained_on(
    datasets_of_this_test, tiny_arrays, tiny_base_parameters, tmp_path, tiny_study
):
    il2m.register_dataset("mine", lambda data_dir: tiny_arrays)
    base = il2m.train_base(out_dir=str(tmp_path), **tiny_base_parameters | {"dataset": "mine"})
    assert base.name == tiny_study.base.name, "the same images: the same run"
    assert (base.config["dataset"], base.config["source"]) == ("mine", "mine")


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda data_dir: [][1], "dataset 'odd' can't be loaded: IndexError"),
        (lambda data_dir: [1, 2], "dataset 'odd': its loader returned list; expected arrays by name"),
        (lambda data_dir: {"x_train": [1]}, "odd: no y_train, x_test, y_test"),
    ],
)
def test_what_a_loader_gets_wrong_is_told_by_name(datasets_of_this_test, tmp_path, loader, message):
    il2m.register_dataset("odd", loader)
    with pytest.raises(InputError, match=message):
        load_dataset("odd", tmp_path)


def test_names_of_datasets_that_are_taken_or_paths_are_refused(datasets_of_this_test):
    def load(data_dir):
        return {}

    for name, message in (
        ("glyphs", "is the name of one that is built in"),
        ("a.npz", "read as a path"),
        ("lists:x", "path"),
    ):
        with pytest.raises(InputError, match=message):
            il2m.register_dataset(name, load)


def test_class_names_that_are_no_text_are_replaced(tiny_arrays: dict[str, np.ndarray]):
    tiny_arrays["class_names"] = np.array(["a\ud800", *"bcdef"])
    assert dataset_from_arrays("tiny", tiny_arrays).class_names[0] == "a\\ud800"


def test_a_home_that_is_not_there_is_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match="no folder"):
        load_dataset("folder:~nobody-of-that-name/x", tmp_path)


def test_files_of_a_registered_dataset_have_the_size_asked_for(datasets_of_this_test, tmp_path, tiny_arrays):
    for label, name in enumerate(("a", "b")):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(tiny_arrays["x_train"][2 * label + i]).save(tmp_path / name / f"{i}.png")
    il2m.register_dataset("files", lambda data_dir: load_dataset(f"folder:{data_dir}", data_dir))
    for size in (224, 16):
        data = load_dataset("files", tmp_path, image_size=size, num_workers=0)
        assert (data.train_images.shape, data.train_images.num_workers) == ((2, size, size, 3), 0)
        assert (data.val_images.shape, data.name) == ((2, size, size, 3), "files")
        assert data.fingerprint == load_dataset(f"folder:{tmp_path}", tmp_path).fingerprint
