"""Folders and lists of image files, read as a dataset of the study."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np

from il2m.authors.formats import ImageList, read_image_list, repeated_images
from il2m.authors.layout import ListLayout
from il2m.data.dataset import Dataset, FileSource
from il2m.data.image_files import ImageFiles
from il2m.data.states import States
from il2m.errors import InputError, name_first

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VAL_FOLDERS = ("val", "validation", "test")
CLASS_NAMES = "classes.txt"  # one name per line, in learning order; not part of the authors' layout
VAL_SHARE = 0.2  # of each class, where a folder has no validation images of its own
_TEXT = np.dtypes.StringDType()


def load_folder(folder: Path, *, data_dir: Path, image_size: int = 224, num_workers: int = 2) -> Dataset:
    """Image files in one folder per class, in ``train/`` and ``val/`` (or ``validation/``, ``test/``), or directly.

    Directly, a fifth of each class, drawn with a fixed seed, is for validation. Classes are the folders' names, sorted.
    Raises InputError where there are no class folders, an empty one, or other classes in one part than in the other.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder.absolute()}: expected one folder of images per class.")
    val = next((folder / name for name in VAL_FOLDERS if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and val is not None:
        train_files, val_files = _class_files(folder / "train"), _class_files(val)
        if train_files.keys() != val_files.keys():
            differing = sorted(train_files.keys() ^ val_files.keys())
            raise InputError(
                f"{folder}: train/ and {val.name}/ differ in {len(differing)} class folders, first {differing[:10]}."
            )
    else:
        train_files, val_files = _split(folder, _class_files(folder))
    names = sorted(train_files)
    parts = []
    for files in (train_files, val_files):
        images = [str(file.relative_to(folder)) for name in names for file in files[name]]
        labels = np.repeat(np.arange(len(names)), [len(files[name]) for name in names])
        parts.append(ImageList(folder, np.array(images, dtype=_TEXT), labels))
    return _dataset(folder.name, *parts, tuple(names), folder, FileSource(data_dir), image_size, num_workers)


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its image files, sorted; hidden files and other kinds of file are passed over."""
    found = {}
    for class_folder in sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()):
        if os.path.basename(class_folder).startswith("."):
            continue
        names = sorted(os.listdir(class_folder))
        files = [name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        found[os.path.basename(class_folder)] = [Path(class_folder, name) for name in files]
    empty = [name for name, files in found.items() if not files]
    if empty or not found:
        what = f"no image in the class folder(s) {empty[:10]}" if empty else "no class folders"
        raise InputError(f"{folder}: {what}; expected one folder per class with images ({', '.join(EXTENSIONS)}).")
    return found


def _split(folder: Path, files: dict[str, list[Path]]) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    train, val = {}, {}
    for number, (name, images) in enumerate(files.items()):
        if len(images) < 2:
            raise InputError(f"{folder / name}: 1 image; a class needs at least 2, to train and to validate.")
        drawn = np.random.default_rng([2019, number]).permutation(len(images))
        num_val = max(round(VAL_SHARE * len(images)), 1)
        train[name] = [images[i] for i in np.sort(drawn[num_val:])]
        val[name] = [images[i] for i in np.sort(drawn[:num_val])]
    return train, val


def load_lists(folder: Path, *, data_dir: Path, image_size: int = 224, num_workers: int = 2) -> Dataset:
    """The images, labels and states that lists in the authors' layout give; ``folder`` is ``<lists>/<dataset>/S~<S>``.

    data_dir: where relative image paths start.
    Raises InputError for missing lists, labels that don't go on from state to state, and images missing on disk.
    """
    layout = ListLayout(folder)
    memories = memory_sizes(folder)
    if not memories:
        what = "no unbalanced/train/K~<K> folder in it" if folder.is_dir() else "no such folder"
        raise InputError(
            f"{folder.absolute()}: {what}; expected lists in the authors' layout, <lists>/<dataset>/S~<S>. "
            "`il2m lists` makes them."
        )
    num_states = 1
    while layout.new(num_states + 1, memories[0]).is_file():
        num_states += 1
    states = range(1, num_states + 1)
    separated = all(layout.separated_val(b).is_file() for b in states)
    vals = [layout.separated_val(b) for b in states] if separated else [layout.accumulated_val(num_states)]
    wanted = [*(layout.new(b, memories[0]) for b in states), *vals]
    if missing := [str(path) for path in wanted if not path.is_file()]:
        raise InputError(name_first("lists are missing", missing))
    new = [read_image_list(layout.new(b, memories[0])) for b in states]
    sizes, seen = [], 0
    for images in new:
        classes = np.unique(images.labels)
        if not np.array_equal(classes, np.arange(seen, seen + len(classes))):
            raise InputError(
                f"{images.source}: the labels of its {len(classes)} classes run from {classes[0]} to {classes[-1]}; "
                f"expected {seen} to {seen + len(classes) - 1} without gaps, going on from the state before."
            )
        sizes.append(len(classes))
        seen += len(classes)
    train, val = _joined(folder, new), _joined(folder, [read_image_list(path) for path in vals])
    absent = np.setxor1d(val.labels, np.arange(seen))
    if len(absent):
        raise InputError(
            f"{folder}: the validation lists have other classes than the training lists' 0..{seen - 1}: see class(es) "
            f"{absent[:10].tolist()}."
        )
    names = _class_names(folder, seen)
    source = FileSource(data_dir, folder, tuple(sizes))
    return _dataset(folder.parent.name, train, val, names, data_dir, source, image_size, num_workers)


def _class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Those that ``il2m lists`` noted beside the lists, else the labels."""
    noted = folder / CLASS_NAMES
    names = tuple(noted.read_text(encoding="utf-8").splitlines()) if noted.is_file() else ()
    return names if len(names) == num_classes else tuple(str(label) for label in range(num_classes))


def memory_sizes(folder: Path) -> list[int]:
    """The K for which lists in the authors' layout are there, in order."""
    found = (path.name.removeprefix("K~") for path in (folder / "unbalanced" / "train").glob("K~*"))
    return sorted(int(size) for size in found if size.isdigit())


def _joined(source: Path, lists: list[ImageList]) -> ImageList:
    return ImageList(source, np.concatenate([x.images for x in lists]), np.concatenate([x.labels for x in lists]))


def _dataset(
    name: str,
    train: ImageList,
    val: ImageList,
    class_names: tuple[str, ...],
    root: Path,
    source: FileSource,
    image_size: int,
    num_workers: int,
) -> Dataset:
    """A Dataset of files; its fingerprint is of their names as listed, sizes and labels: not of where they lie."""
    if repeated := repeated_images(train.images):
        what = f"images occur more than once among the training images of {train.source}"
        warnings.warn(name_first(what, repeated), stacklevel=4)
    digest, files, missing = hashlib.sha256(), [], []
    for part in (train, val):
        paths = [os.path.join(root, image) for image in part.images]
        sizes = np.full(len(paths), -1)
        for i, path in enumerate(paths):
            try:
                sizes[i] = os.stat(path).st_size
            except OSError:
                missing.append(path)
        digest.update("\n".join(part.images).encode() + part.labels.tobytes() + sizes.tobytes())
        files.append(ImageFiles(np.array(paths, dtype=_TEXT), image_size, num_workers))
    if missing:
        raise InputError(name_first("images are missing on disk", missing))
    return Dataset(
        name=name,
        train_images=files[0],
        train_labels=train.labels,
        val_images=files[1],
        val_labels=val.labels,
        class_names=class_names,
        fingerprint=digest.hexdigest()[:16],
        files=source,
    )


def given_exemplars(data: Dataset, memory_size: int, states: States) -> dict[int, np.ndarray]:
    """The exemplars that a dataset's lists give for K = memory_size: state -> indices of training images, as listed.

    Raises InputError for missing lists, for images that are not training images of their class, for past classes
    without exemplars, and where the lists of new images differ from those of another K.
    """
    layout, root = ListLayout(data.files.lists), data.files.data_dir
    there = memory_sizes(layout.folder)
    wanted = {state: layout.old(state, memory_size) for state in range(2, states.num_states + 1)}
    if missing := [str(path) for path in wanted.values() if not path.is_file()]:
        raise InputError(
            name_first(f"lists of exemplars are missing for memory_size = {memory_size}", missing)
            + f"\nThere are lists for memory_size {', '.join(map(str, there))}; exemplars_per_class does without lists."
        )
    _check_same_new(layout, states, memory_size, there[0])
    index = {path: i for i, path in enumerate(data.train_images.paths.tolist())}
    exemplars = {}
    for state, path in wanted.items():
        listed = read_image_list(path)
        indices = np.array([index.get(os.path.join(root, image), -1) for image in listed.images])
        wrong = np.flatnonzero((indices < 0) | (data.train_labels[indices] != listed.labels))
        if len(wrong):
            lines = [f"{listed.images[place]} {listed.labels[place]}" for place in wrong]
            raise InputError(name_first(f"images of {path} are not training images of their class", lines))
        absent = np.setxor1d(listed.labels, np.arange(states.num_past(state)))
        if len(absent):
            raise InputError(
                f"{path}: expected exemplars of the past classes 0..{states.num_past(state) - 1} and no others; see "
                f"class(es) {absent[:10].tolist()}."
            )
        exemplars[state] = indices
    return exemplars


def _check_same_new(layout: ListLayout, states: States, memory_size: int, loaded: int) -> None:
    """Raise InputError if this K's lists of new images are not those that were loaded, of K = ``loaded``."""
    for state in range(2, states.num_states + 1) if memory_size != loaded else ():
        one, other = (read_image_list(layout.new(state, size)) for size in (memory_size, loaded))
        if not np.array_equal(np.sort(one.images), np.sort(other.images)):
            raise InputError(f"{one.source} lists other images than {other.source}: keep them in folders of their own.")
