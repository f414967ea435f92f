"""Folders and lists of image files, read as a dataset of the study."""

import hashlib
import itertools
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from il2m.authors.formats import TEXT, ImageList, ListLayout, read_image_list, read_text, repeated_images
from il2m.data.dataset import Dataset, FileSource
from il2m.data.image_files import ImageFiles, find_missing
from il2m.data.states import States, places_by_class
from il2m.errors import InputError, name_first, printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TRAIN_FOLDERS, VAL_FOLDERS = ("train", "training"), ("val", "validation", "test", "valid", "testing")  # or in capitals
CLASS_NAMES = "classes.txt"  # one name per line, in learning order; not part of the authors' layout
VAL_SHARE = 0.2  # of each class, where a folder has no validation images of its own


def load_folder(folder: Path, **options: int) -> Dataset:
    """Image files in one folder per class, in ``train/`` and ``val/`` (the first there is of each of TRAIN_FOLDERS and
    VAL_FOLDERS), or directly: then a fifth of each class, drawn with a fixed seed, is for validation. Classes are the
    folders' names, sorted. options: image_size and num_workers of ImageFiles. Raises InputError where there are no
    class folders, an empty one, or other classes in one part than in the other."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder.absolute()}: expected one folder of images per class.")
    parts = {path.name.casefold(): path for path in sorted(folder.iterdir()) if path.is_dir()}  # small letters win
    found = [[parts[name] for name in names if name in parts] for names in (TRAIN_FOLDERS, VAL_FOLDERS)]
    if all(found):
        (names, train), (val_names, val) = (_class_files(of_part[0], folder) for of_part in found)
        if differing := sorted({*names} ^ {*val_names}):
            what = f"{found[0][0].name}/ and {found[1][0].name}/ differ in {len(differing)} class folders"
            raise InputError(f"{folder}: {what}, first {differing[:10]}.")
    else:
        names, images = _class_files(folder, folder)
        train, val = _split(images, names)
    unused = _unused(folder, {*train.images.tolist(), *val.images.tolist()})
    return _dataset(folder.name, train, val, names, FileSource(folder, unused=unused), **options)


def _class_files(folder: Path, root: Path) -> tuple[list[str], ImageList]:
    """Names of the class folders, and their image files as seen from ``root``, all sorted; no hidden or other files."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    files = {path.name: sorted(f for f in os.listdir(path) if not f.startswith(".")) for path in folders}
    files = {name: [f for f in listed if f.lower().endswith(EXTENSIONS)] for name, listed in files.items()}
    empty = [name for name, listed in files.items() if not listed]
    if empty or not files:
        what = f"no image in the class folder(s) {empty[:10]}" if empty else "no class folders"
        what += "; expected one folder per class with images"
        raise InputError(f"{folder}: {what} ({', '.join(EXTENSIONS)}). Other layouts become that: docs/data.md.")
    start = folder.relative_to(root)
    images = [str(start / name / file) for name, listed in files.items() for file in listed]
    labels = np.repeat(np.arange(len(files)), [len(listed) for listed in files.values()])
    try:
        return list(files), ImageList(root, np.array(images, dtype=TEXT), labels)
    except UnicodeEncodeError as error:  # of another encoding, as a foreign archive may bring them
        raise InputError(f"{folder}: the name {printable(error.object)} is not UTF-8: rename it.") from None


def _unused(folder: Path, used: set[str]) -> tuple[str, ...]:
    """A sentence on the files in ``folder`` that are not used, hidden ones aside, and one on linked folders that are
    not read: links that no used file lies in are not followed, as they may lead anywhere."""
    unused, links, by_suffix = [], [], {}
    read = {each for place in {*map(os.path.dirname, used)} for each in (place, os.path.dirname(place))}
    for place, folders, files in os.walk(folder, followlinks=True):
        paths = {name: os.path.relpath(os.path.join(place, name), folder) for name in sorted([*folders, *files])}
        closed = [name for name in folders if os.path.islink(os.path.join(place, name)) and paths[name] not in read]
        links += (paths[name] for name in sorted(closed) if name[0] != ".")
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in closed)
        unused += (paths[name] for name in sorted(files) if name[0] != "." and paths[name] not in used)
    for path in unused:
        by_suffix.setdefault(Path(path).suffix.lower() or "no suffix", []).append(path)
    kinds = ", ".join(f"{len(paths)} {suffix} (first {paths[0]})" for suffix, paths in sorted(by_suffix.items())[:10])
    rule = f"used are images ({', '.join(EXTENSIONS)}) directly in class folders, of train/ and val/ if there"
    told = [f"{folder}: {len(unused)} files are not used: {kinds}; {rule}."] * bool(unused)
    told += [name_first(f"linked folders in {folder} are not read, nor is what they hold counted", links)] * bool(links)
    return tuple(told)


def _split(images: ImageList, names: list[str]) -> tuple[ImageList, ImageList]:
    """Images to train and to validate with: of each class a share drawn with a fixed seed."""
    is_val = np.zeros(len(images), dtype=bool)
    for label, places in places_by_class(images.labels).items():
        if len(places) < 2:
            alone = images.source / names[label]
            raise InputError(f"{alone}: 1 image; a class needs at least 2, to train and to validate.")
        drawn = np.random.default_rng([2019, label]).permutation(places)
        is_val[drawn[: max(round(VAL_SHARE * len(places)), 1)]] = True
    return images[~is_val], images[is_val]


def load_lists(folder: Path, data_dir: Path, **options: int) -> Dataset:
    """The images, labels and states that lists in the authors' layout give; ``folder`` is ``<lists>/<dataset>/S~<S>``.
    data_dir: where relative image paths start. options: as of load_folder. Raises InputError for missing lists, labels
    that don't go on from state to state, and images missing on disk."""
    layout, memories = ListLayout(folder), sizes_of_memory(folder)
    if not memories:
        what = "no unbalanced/train/K~<K> folder in it" if folder.is_dir() else "no such folder"
        expected = "lists in the authors' layout, <lists>/<dataset>/S~<S>. `il2m lists` makes them"
        raise InputError(f"{folder.absolute()}: {what}; expected {expected}.")
    num_states = next(b for b in itertools.count(1) if not layout.train(b + 1, memories[0], "new").is_file())
    train_paths = [layout.train(b, memories[0], "new") for b in range(1, num_states + 1)]
    val_paths = [layout.val(b, "separated") for b in range(1, num_states + 1)]
    if missing := find_missing([*train_paths, *val_paths]):
        raise InputError(name_first("lists are missing", missing))
    sizes = _new_classes(new := [read_image_list(path) for path in train_paths])
    num_classes, noted = sum(sizes), folder / CLASS_NAMES
    train, val = _joined(folder, new), _joined(folder, map(read_image_list, val_paths))
    differing = f"the validation lists have other classes than the training lists' 0..{num_classes - 1}"
    check_classes(val, num_classes, f"{folder}: {differing}:")
    names = read_text(noted).splitlines() if noted.is_file() else []
    names = names if len(names) == num_classes else map(str, range(num_classes))
    return _dataset(folder.parent.name, train, val, names, FileSource(data_dir, folder, sizes), **options)


def _new_classes(new: list[ImageList]) -> tuple[int, ...]:
    """How many classes each state brings. Raises InputError where labels don't go on from the state before."""
    sizes: list[int] = []
    for images in new:
        classes, seen = np.unique(images.labels), sum(sizes)
        if not np.array_equal(classes, np.arange(seen, seen + len(classes))):
            what = f"the labels of its {len(classes)} classes run from {classes[0]} to {classes[-1]}"
            expected = f"{seen} to {seen + len(classes) - 1} without gaps, going on from the state before"
            raise InputError(f"{images.source}: {what}; expected {expected}.")
        sizes.append(len(classes))
    return tuple(sizes)


def check_classes(images: ImageList, num_classes: int, problem: str) -> None:
    """Raise InputError, ``problem`` and the classes at fault, unless just the classes 0..num_classes-1 have images."""
    if differing := np.setxor1d(images.labels, np.arange(num_classes)).tolist():
        raise InputError(f"{problem} see class(es) {differing[:10]}.")


def sizes_of_memory(folder: Path) -> list[int]:
    """The K for which lists in the authors' layout are there, in order."""
    sizes = (path.name.removeprefix("K~") for path in (folder / "unbalanced" / "train").glob("K~*"))
    return sorted(int(size) for size in sizes if size.isascii() and size.isdigit())


def listed_images(folder: Path, root: str | Path) -> np.ndarray:
    """The paths in all lists of a folder, (n,) numpy strings, each once; relative ones start at ``root``."""
    if not (files := sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CLASS_NAMES)):
        raise InputError(f"no lists in {folder}: expected <lists>/<dataset>/S~<S>.")
    return np.unique(np.concatenate([read_image_list(file).paths(root) for file in files]))


def _joined(source: Path, lists: Iterable[ImageList]) -> ImageList:
    images, labels = zip(*((part.images, part.labels) for part in lists), strict=True)
    return ImageList(source, np.concatenate(images), np.concatenate(labels))


def _dataset(
    name: str, train: ImageList, val: ImageList, class_names: Iterable[str], source: FileSource, **options: int
) -> Dataset:
    """A Dataset of ImageFiles; its fingerprint is of their names as listed, sizes and labels: not of where they lie."""
    if repeated := repeated_images(train.images):
        what = f"images occur more than once among the training images of {train.source}"
        warnings.warn(name_first(what, repeated), stacklevel=4)
    digest, files = hashlib.sha256(), [ImageFiles(part.paths(source.root), **options) for part in (train, val)]
    paths = [images.paths.tolist() for images in files]
    try:
        sizes = [np.array([os.path.getsize(path) for path in of_part]) for of_part in paths]
    except OSError:
        raise InputError(name_first("images are missing on disk", find_missing(itertools.chain(*paths)))) from None
    for part, of_part in zip((train, val), sizes, strict=True):
        digest.update("\n".join(part.images).encode() + part.labels.tobytes() + of_part.tobytes())
    fingerprint = digest.hexdigest()[:16]
    return Dataset(name, files[0], train.labels, files[1], val.labels, tuple(class_names), fingerprint, source)


def given_exemplars(data: Dataset, memory_size: int, states: States) -> dict[int, np.ndarray]:
    """The exemplars that a dataset's lists give for K = memory_size: state -> indices of training images, as listed.
    Raises InputError for missing lists, for images that are not training images of their class, for past classes
    without exemplars, and where the lists of new images differ from those of another K."""
    layout = ListLayout(data.files.lists)
    known = sizes_of_memory(layout.folder)
    wanted = {state: layout.train(state, memory_size, "old") for state in range(2, states.num_states + 1)}
    if missing := find_missing(wanted.values()):
        hint = f"There are lists for memory_size {', '.join(map(str, known))}; exemplars_per_class does without lists."
        what = f"lists of exemplars are missing for memory_size = {memory_size}"
        raise InputError(name_first(what, missing) + f"\n{hint}")
    places = {path: place for place, path in enumerate(data.train_images.paths.tolist())}
    exemplars = {}
    for state, path in wanted.items():
        if memory_size != known[0]:  # whose lists of new images were loaded
            one, other = (read_image_list(layout.train(state, size, "new")) for size in (memory_size, known[0]))
            if not np.array_equal(np.sort(one.images), np.sort(other.images)):
                different = f"{one.source} lists other images than {other.source}"
                raise InputError(f"{different}: keep them in folders of their own.")
        listed = read_image_list(path)
        indices = np.array([places.get(image, -1) for image in listed.paths(data.files.root).tolist()])
        if len(wrong := np.flatnonzero((indices < 0) | (data.train_labels[indices] != listed.labels))):
            lines = [f"{listed.images[line]} {listed.labels[line]}" for line in wrong]
            raise InputError(name_first(f"images of {path} are not training images of their class", lines))
        past = states.num_past(state)
        check_classes(listed, past, f"{path}: expected exemplars of the past classes 0..{past - 1} and no others;")
        exemplars[state] = indices
    return exemplars
