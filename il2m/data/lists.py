"""Folders and lists of image files, read as a dataset of the study."""

import hashlib
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from il2m.authors.formats import TEXT, ImageList, ListLayout, read_image_list, read_text, repeated_images
from il2m.data.dataset import Dataset, FileSource, checked_labels
from il2m.data.image_files import ImageFiles, check_present
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
    return _dataset(folder.name, (train, val), names, FileSource(folder, unused=unused), **options)


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
    layout, memory = ListLayout(folder), min(sizes_of_memory(folder), default="<K>")
    there = folder, *folder.glob("*/val/batch*"), *folder.glob("unbalanced/train/K~*/*_*")
    found = [re.fullmatch("(?:S~|batch)([0-9]{1,4})|([0-9]{1,4})_(?:new|old)", path.name) for path in there]
    states = range(1, 1 + max([1, *(int(each[1] or each[2]) for each in found if each)]))
    paths = [layout.train(b, memory, "new") for b in states], [layout.val(b, "separated") for b in states]
    hint = "Expected are lists in the authors' layout, all of <lists>/<dataset>/S~<S>. `il2m lists` makes them."
    check_present(itertools.chain(*paths), "lists are missing", hint)
    read = [[read_image_list(path) for path in part] for part in paths]
    sizes, noted = _new_classes(read[0]), folder / CLASS_NAMES
    names = read_text(noted).rstrip("\n").split("\n") if noted.is_file() else map(str, range(sum(sizes)))
    joined = ((np.concatenate([x.images for x in part]), np.concatenate([x.labels for x in part])) for part in read)
    parts = [ImageList(folder, *each) for each in joined]
    return _dataset(folder.parent.name, parts, names, FileSource(data_dir, folder, sizes), **options)


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


def listed_anew(name: str, data: Dataset, **options: int) -> Dataset:
    """The same image files, which a loader may have chosen from others or given other labels, with the fingerprint of
    what they are now. options: as of load_folder. Raises InputError as _dataset, and for labels that are none."""
    parts = []
    for images, labels in ((data.train_images, data.train_labels), (data.val_images, data.val_labels)):
        labels = checked_labels(labels, len(images), f"{name}: an array of labels")
        listed = images.paths if images.listed is None else images.listed
        parts.append(ImageList(data.files.lists or data.files.root, listed, labels))
    return _dataset(name, parts, data.class_names, data.files, **options)


def _dataset(name: str, parts: Sequence[ImageList], names: Iterable[str], files: FileSource, **options: int) -> Dataset:
    """A Dataset of ImageFiles, of training and validation; its fingerprint is of their names as listed, sizes and
    labels: not of where they lie. Raises InputError unless each class has images of both, and a name of its own."""
    names = tuple(names)
    num_classes = sum(files.state_sizes) or len(names)
    if not len({*names}) == len(names) == num_classes:
        what = f"{files.lists or files.root}: {len(names)} class names for {num_classes} classes"
        raise InputError(f"{what}; expected one each, no two alike (in {CLASS_NAMES}, if it is there).")
    for part, kind in zip(parts, ("training", "validation"), strict=True):
        check_classes(part, num_classes, f"{part.source}: the {kind} images are not of the {num_classes} classes:")
        if repeated := repeated_images(part.images):
            what = f"images occur more than once among the {kind} images of {part.source}"
            warnings.warn(name_first(what, repeated), stacklevel=4)
    digest, given = hashlib.sha256(), []
    for part in parts:
        images = ImageFiles(part.paths(files.root), listed=part.images, **options)
        try:
            sizes = np.array([os.path.getsize(path) for path in images.paths.tolist()])
        except OSError:
            check_present(path for each in parts for path in each.paths(files.root).tolist())
            raise
        digest.update("\n".join(part.images).encode() + part.labels.tobytes() + sizes.tobytes())
        given += images, part.labels
    return Dataset(name, *given, names, digest.hexdigest()[:16], files)


def given_exemplars(data: Dataset, memory_size: int, states: States) -> dict[int, np.ndarray]:
    """The exemplars that a dataset's lists give for K = memory_size: state -> indices of training images, as listed.
    Raises InputError for missing lists, for images that are not training images of their class, for past classes
    without exemplars, and where the lists of new images differ from those of another K."""
    layout = ListLayout(data.files.lists)
    known = sizes_of_memory(layout.folder)
    wanted = {state: layout.train(state, memory_size, "old") for state in range(2, states.num_states + 1)}
    hint = f"There are lists for memory_size {', '.join(map(str, known))}; exemplars_per_class does without lists."
    check_present(wanted.values(), f"lists of exemplars are missing for memory_size = {memory_size}", hint)
    places = {path: place for place, path in enumerate(data.train_images.paths.tolist())}
    exemplars = {}
    for state, path in wanted.items():
        if memory_size != known[0]:  # whose lists of new images were loaded
            one, other = (read_image_list(layout.train(state, size, "new")) for size in (memory_size, known[0]))
            if not np.array_equal(np.sort(one.images), np.sort(other.images)):
                raise InputError(f"{one.source} lists other images than {other.source}: keep them in two folders.")
        listed = read_image_list(path)
        if repeated := repeated_images(images := listed.paths(data.files.root)):
            raise InputError(name_first(f"images occur more than once in {path}: take them out", repeated))
        indices = np.array([places.get(image, -1) for image in images.tolist()])
        if len(wrong := np.flatnonzero((indices < 0) | (data.train_labels[indices] != listed.labels))):
            lines = [f"{listed.images[line]} {listed.labels[line]}" for line in wrong]
            raise InputError(name_first(f"images of {path} are not training images of their class", lines))
        past = states.num_past(state)
        check_classes(listed, past, f"{path}: expected exemplars of the past classes 0..{past - 1} and no others;")
        exemplars[state] = indices
    return exemplars
