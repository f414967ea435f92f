"""What is done once to a collection of images before it is studied: lists, mean and standard deviation, a check."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from il2m.authors.formats import append_mean_std, check_new_name, read_image_list, repeated_images, write_image_list
from il2m.authors.layout import ListLayout
from il2m.data.batches import Normalisation
from il2m.data.dataset import Dataset
from il2m.data.image_files import ImageFiles, find_missing, find_unreadable, images_mean_std
from il2m.data.lists import CLASS_NAMES, load_folder
from il2m.data.sources import load_dataset
from il2m.data.states import States, make_class_order, make_states
from il2m.errors import InputError, name_first
from il2m.memory.exemplars import check_memory, exemplars_per_past_class, rank_classes
from il2m.system.files import replacing

EXEMPLAR_CHOICES = ("random", "first")
_TEXT = np.dtypes.StringDType()


def make_lists(
    sources: Sequence[str],
    out: str | Path,
    *,
    name: str,
    memory_sizes: Sequence[int],
    num_states: int = 10,
    state_sizes: Sequence[int] = (),
    order_seed: int = 0,
    class_order: Sequence[int] = (),
    exemplar_selection: str = "random",
    exemplar_seed: int = 0,
    root: str | Path = "",
    relative_to: str | Path = "",
    data_dir: str | Path = "data",
) -> Path:
    """Write the authors' whole layout of lists to ``out/<name>/S~<S>``; returns that folder.

    sources: one of a folder of images (a folder per class), a dataset of the project or an .npz file (its images are
    written to ``out/<name>/images`` as PNG); or two plain lists, of training and of validation images.
    memory_sizes: each K. exemplar_selection: ``random`` or ``first``, of each class (herding needs a trained model: the
    lists of such a run come from export_scores).
    root: where relative paths of plain lists start.
    relative_to: the root that paths are written relative to; by default they are absolute.
    """
    train, val, class_names = _labelled_paths(sources, Path(out) / name / "images", root, data_dir)
    states = make_states(len(class_names), num_states, state_sizes)
    order = make_class_order(len(class_names), order_seed, class_order)
    for memory_size in memory_sizes:
        check_memory(memory_size, 0, states)
    place = np.argsort(order)
    parts = []
    for paths, labels in (train, val):
        start = os.path.abspath(relative_to) if relative_to else None
        paths = [os.path.relpath(p, start) if start else os.path.abspath(p) for p in paths.tolist()]
        parts.append((np.array(paths, dtype=_TEXT), place[labels]))
    layout = ListLayout(Path(out) / name / f"S~{states.num_states}")
    for memory_size in memory_sizes:
        exemplars = choose_exemplars(parts[0][1], states, memory_size, exemplar_selection, exemplar_seed)
        write_lists(layout, states, memory_size, *parts, exemplars)
    with replacing(layout.folder / CLASS_NAMES, "w") as file:
        file.writelines(f"{class_names[c]}\n" for c in order)
    return layout.folder


def _labelled_paths(
    sources: Sequence[str], image_folder: Path, root: str | Path, data_dir: str | Path
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """Paths and labels of training and of validation images, and the class names."""
    if len(sources) == 2:
        train, val = (read_image_list(source) for source in sources)
        num_classes = int(train.labels.max()) + 1
        for part in (train, val):
            absent = np.setxor1d(part.labels, np.arange(num_classes))
            if len(absent):
                raise InputError(
                    f"{part.source}: expected images of each of the classes 0..{num_classes - 1} and of no others; see "
                    f"class(es) {absent[:10].tolist()}."
                )
        names = tuple(str(label) for label in range(num_classes))
        return (_rooted(train.images, root), train.labels), (_rooted(val.images, root), val.labels), names
    if len(sources) != 1:
        raise InputError(
            f"{len(sources)} sources ({', '.join(sources)}): expected one (a folder, a dataset), or two lists, of "
            "training and of validation images."
        )
    source = sources[0].removeprefix("folder:")
    if os.path.isdir(source):
        data = load_folder(Path(source), data_dir=Path(data_dir))
    elif source.startswith("lists:"):
        raise InputError(f"{source}: give a folder, two plain lists or a dataset; these are lists already.")
    else:
        data = load_dataset(source, data_dir)
    train_paths, val_paths = image_paths(data, image_folder)
    return (train_paths, data.train_labels), (val_paths, data.val_labels), data.class_names


def write_lists(
    layout: ListLayout,
    states: States,
    memory_size: int,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    exemplars: Mapping[int, np.ndarray],
) -> None:
    """Write all lists of the authors' layout.

    train, val: paths (n,) and labels (n,), in learning order. exemplars: state -> indices of training images.
    """
    for state in range(1, states.num_states + 1):
        for chosen, path in (
            (np.isin(val[1], states.new_classes(state)), layout.separated_val(state)),
            (val[1] < states.num_seen(state), layout.accumulated_val(state)),
        ):
            write_image_list(path, val[0][chosen], val[1][chosen])
        chosen = np.isin(train[1], states.new_classes(state))
        write_image_list(layout.new(state, memory_size), train[0][chosen], train[1][chosen])
        if state > 1:
            kept = exemplars[state]
            write_image_list(layout.old(state, memory_size), train[0][kept], train[1][kept])


def choose_exemplars(
    labels: np.ndarray, states: States, memory_size: int, selection: str, seed: int
) -> dict[int, np.ndarray]:
    """Exemplars without a model: state -> indices of training images, class by class, K // past classes of each.

    selection: ``random``, or ``first`` for each class's first images. labels: (n,) of the training images.
    """
    most = exemplars_per_past_class(memory_size, 0, states.num_past(2)) if states.num_states > 1 else 0
    if selection == "first":
        ranking = {int(label): np.flatnonzero(labels == label)[:most] for label in np.unique(labels)}
    else:
        ranking = rank_classes("random", None, labels, most, seed)
    exemplars = {}
    for state in range(2, states.num_states + 1):
        kept = exemplars_per_past_class(memory_size, 0, states.num_past(state))
        exemplars[state] = np.concatenate([ranking[label][:kept] for label in range(states.num_past(state))])
    return exemplars


def image_paths(data: Dataset, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Paths of a dataset's training and validation images, numpy strings; images that are arrays become PNG files in
    ``folder``."""
    paths = []
    for part, images in (("train", data.train_images), ("val", data.val_images)):
        if isinstance(images, ImageFiles):
            paths.append(images.paths)
            continue
        names = [folder / part / f"{i:06d}.png" for i in range(len(images))]
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(name)
        paths.append(np.array([str(name) for name in names], dtype=_TEXT))
    return paths[0], paths[1]


def add_mean_std(
    image_list: str | Path, name: str, file: str | Path, *, root: str | Path = "", num_workers: int = 2
) -> Normalisation:
    """Compute mean and standard deviation over the images of a list, and add them to ``file`` under ``name``.

    root: where relative paths start. Raises InputError for images that can't be read, or a name that is taken.
    """
    check_new_name(file, name)  # before the long work
    paths = _paths(image_list, root)
    if missing := find_missing(paths):
        raise InputError(name_first("images are missing on disk", missing))
    normalisation = images_mean_std(ImageFiles(paths, num_workers=num_workers))
    append_mean_std(file, name, normalisation.mean, normalisation.std)
    return normalisation


def check_images(what: str, *, root: str | Path = "", num_workers: int = 2) -> str:
    """Decode every image of a list, of a folder (``folder:PATH``) or of a whole layout of lists (``lists:PATH``).

    root: where relative paths start. Returns a report; raises InputError that names the images that are missing or
    can't be read, all at once.
    """
    kind, _, path = what.partition(":")
    repeated: list[str] = []
    if kind == "folder":
        data = load_folder(Path(path), data_dir=Path(root))
        paths = np.concatenate([data.train_images.paths, data.val_images.paths])
    elif kind == "lists":
        files = sorted(file for file in Path(path).rglob("*") if file.is_file() and file.name != CLASS_NAMES)
        if not files:
            raise InputError(f"no lists in {path}: expected <lists>/<dataset>/S~<S>.")
        paths = np.unique(np.concatenate([_paths(file, root) for file in files]))
    else:
        paths = _paths(what, root)
        repeated = repeated_images(paths)
        paths = np.unique(paths)
    missing = find_missing(paths)
    there = np.setdiff1d(paths, np.array(missing, dtype=_TEXT))
    unreadable = find_unreadable(ImageFiles(there, num_workers=num_workers))
    problems = [("images are missing on disk", missing), ("images can't be read", unreadable)]
    if missing or unreadable:
        raise InputError("\n".join(name_first(text, found) for text, found in problems if found))
    notes = [name_first("images occur more than once", repeated)] if repeated else []
    return "\n".join([*notes, f"{what}: {len(paths)} images, all of them can be read."])


def _paths(image_list: str | Path, root: str | Path) -> np.ndarray:
    return _rooted(read_image_list(image_list).images, root)


def _rooted(images: np.ndarray, root: str | Path) -> np.ndarray:
    return np.array([os.path.join(root, image) for image in images.tolist()], dtype=_TEXT)
