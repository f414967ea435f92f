"""What is done once to a collection of images before it is studied: lists, and a check."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from il2m.authors.formats import TEXT, ImageList, ListLayout, read_image_list, repeated_images, write_image_list
from il2m.data.image_files import FORMATS, ImageFiles, find_missing
from il2m.data.lists import CLASS_NAMES, check_classes, listed_images, load_folder, sizes_of_memory
from il2m.data.sources import load_dataset
from il2m.data.states import States, make_class_order, make_states
from il2m.errors import InputError, name_first
from il2m.memory.exemplars import check_memory, kept_per_class, rank_classes
from il2m.parameters import FineTuning
from il2m.system.files import replacing, safe_name


def make_lists(
    sources: Sequence[str],
    out: str | Path,
    *,
    name: str,
    memory_sizes: Sequence[int],
    num_states: int = 10,
    state_sizes: Sequence[int] = (),
    order_seed: int = 0,
    class_order: Sequence[int | str] | str = (),
    exemplar_seed: int = 0,
    memory_rounding: str = "ceil",
    root: str | Path = "",
    relative_to: str | Path = "",
) -> Path:
    """Write the authors' whole layout of lists to ``out/<name>/S~<S>``; returns that folder.
    sources: a folder of images (a folder per class), or two plain lists, of training and of validation images.
    memory_sizes: each K; exemplars are drawn at random (export_scores lists a run's herded ones). memory_rounding: of
    K / past classes, ``ceil`` (the authors') or ``floor``. root: where relative paths of plain lists start.
    relative_to: the root that paths are written relative to; by default they are absolute."""
    safe_name(name, "name =")
    *parts, class_names = _read_sources(sources, root)
    states = make_states(len(class_names), num_states, state_sizes)
    order = make_class_order(len(class_names), order_seed, class_order, class_names)
    memories = [FineTuning.given(values={"memory_size": K, "memory_rounding": memory_rounding}) for K in memory_sizes]
    for memory in memories:
        check_memory(memory, states)
    train, val = (_as_listed(part, np.argsort(order), relative_to) for part in parts)
    ranking = rank_classes("random", None, train.labels, len(train), exemplar_seed)
    layout = ListLayout(Path(out) / name / f"S~{states.num_states}")
    names, there = "".join(f"{class_names[c]}\n" for c in order), layout.folder / CLASS_NAMES
    if {*sizes_of_memory(layout.folder)} - {*memory_sizes} and not (there.is_file() and there.read_text() == names):
        raise InputError(f"{layout.folder} has lists of other K, classes or order: take another out or name.")
    for memory in memories:
        _write_lists(layout, states, memory, train, val, ranking)
    with replacing(there, "w") as file:
        file.write(names)
    return layout.folder


def _read_sources(sources: Sequence[str], root: str | Path) -> tuple[ImageList, ImageList, tuple[str, ...]]:
    """Training images and validation images with the data set's labels, and the class names."""
    if len(sources) == 2:
        parts = [read_image_list(source) for source in sources]
        count = len(np.unique(parts[0].labels))
        for part in parts:
            expected = f"images of each of the classes 0..{count - 1} and of no others"
            check_classes(part, count, f"{part.source}: expected {expected};")
        return *(ImageList(part.source, part.paths(root), part.labels) for part in parts), tuple(map(str, range(count)))
    if len(sources) != 1:
        expected = "a folder, or two lists, of training and of validation images"
        raise InputError(f"{len(sources)} sources ({', '.join(sources)}): expected {expected}.")
    folder = Path(sources[0].removeprefix("folder:"))
    data = load_folder(folder)
    parts = (data.train_images, data.train_labels), (data.val_images, data.val_labels)
    return *(ImageList(folder, images.paths, labels) for images, labels in parts), data.class_names


def _as_listed(images: ImageList, place: np.ndarray, relative_to: str | Path) -> ImageList:
    """Paths as lists shall have them, and labels in learning order. place: (C,) of each class in that order."""
    paths = [os.path.relpath(p, relative_to) if relative_to else os.path.abspath(p) for p in images.images.tolist()]
    return ImageList(images.source, np.array(paths, dtype=TEXT), place[images.labels])


def _write_lists(
    layout: ListLayout, states: States, memory: FineTuning, train: ImageList, val: ImageList, ranking: Mapping
) -> None:
    """All lists of the authors' layout for one K. ranking: class -> its training images, those kept longest first."""
    for state in range(1, states.num_states + 1):
        new, num_past = states.new_classes(state), states.num_past(state)
        lists = {
            layout.val(state, "separated"): val[np.isin(val.labels, new)],
            layout.val(state, "accumulated"): val[val.labels < states.num_seen(state)],
            layout.train(state, memory.memory_size, "new"): train[np.isin(train.labels, new)],
        }
        if state > 1:
            kept = kept_per_class(memory, num_past)
            exemplars = np.concatenate([ranking[label][:kept] for label in range(num_past)])
            lists[layout.train(state, memory.memory_size, "old")] = train[exemplars]
        for path, part in lists.items():
            write_image_list(path, part.images, part.labels)


def check_images(what: str, *, root: str | Path = "", num_workers: int = 2) -> str:
    """A report on ``folder:PATH``, an ``.npz``, a list or a layout of lists (``lists:PATH``): every image is decoded.
    root: where relative paths start. Raises InputError that names all images that can't be read."""
    kind, _, path = what.partition(":")
    data = load_dataset(what, root) if kind == "folder" or what.endswith(".npz") else None
    if data and not data.files:
        return "\n".join([*data.odd_contents(data.contents), f"{what}: {data}"])
    if data:
        paths = np.concatenate([data.train_images.paths, data.val_images.paths])
    else:
        paths = listed_images(Path(path), root) if kind == "lists" else read_image_list(what).paths(root)
    repeated = repeated_images(paths)
    paths, places = np.unique(paths, return_inverse=True)
    missing = find_missing(paths)
    present = np.setdiff1d(paths, np.array(missing, dtype=TEXT))
    from il2m.data.file_batches import read_all  # imports torch

    unreadable, digests = read_all(ImageFiles(present, num_workers=num_workers))
    problems = {"images are missing on disk": missing, "images can't be read": unreadable}
    if missing or unreadable:
        raise InputError("\n".join(name_first(problem, paths) for problem, paths in problems.items() if paths))
    notes = [name_first("images occur more than once", repeated)] if repeated else []
    if data:
        notes += data.files.unused
        notes += [*data.odd_contents(np.split(digests[places, 1], [len(data.train_labels)])), f"{what}: {data}"]
    return "\n".join([*notes, f"{what}: {len(paths)} images, all of them can be read: {_sizes_and_modes(present)}."])


def _sizes_and_modes(paths: np.ndarray) -> str:
    """Of image files, in words."""
    Image.MAX_IMAGE_PIXELS = None  # all were decoded, within our own limit
    heads = []
    for path in paths:
        with Image.open(path, formats=FORMATS) as image:
            heads.append((*image.size, image.mode))
    widths, heights, modes = zip(*heads, strict=True)
    counts = ", ".join(f"{number} of mode {mode}" for mode, number in Counter(modes).most_common())
    return f"{min(widths)} to {max(widths)} pixels wide, {min(heights)} to {max(heights)} high, {counts}"
