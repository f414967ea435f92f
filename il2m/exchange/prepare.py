"""What is done once to a collection of images before it is studied: lists, and a check."""

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from il2m.authors.formats import TEXT, ImageList, ListLayout, read_image_list, repeated_images, write_image_list
from il2m.data.dataset import Dataset
from il2m.data.image_files import ImageFiles, check_present, max_megapixels, opened
from il2m.data.lists import CLASS_NAMES, check_classes, given_exemplars, sizes_of_memory
from il2m.data.sources import load_dataset
from il2m.data.states import States, make_class_order, make_states
from il2m.errors import InputError, name_first
from il2m.memory.exemplars import check_memory, kept_per_class, rank_classes
from il2m.parameters import BaseTraining, FineTuning
from il2m.rules import SEED, check_choice
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
    given = {"num_states": num_states, "state_sizes": [*state_sizes], "order_seed": order_seed}
    given["class_order"] = class_order if isinstance(class_order, str) else [*class_order]
    asked = BaseTraining.given(values=given)
    check_choice("exemplar_seed", exemplar_seed, SEED)
    if len(memory_sizes) == 0:
        raise InputError("memory_sizes is empty: give one K or more.")
    data = _read_sources(sources, root)
    states = make_states(data.num_classes, asked.num_states, asked.state_sizes)
    order = make_class_order(data.num_classes, asked.order_seed, asked.class_order, data.class_names)
    memories = [FineTuning.given(values={"memory_size": K, "memory_rounding": memory_rounding}) for K in memory_sizes]
    for memory in memories:
        check_memory(memory, states)
    layout, data = ListLayout(Path(out) / name / f"S~{states.num_states}"), data.in_learning_order(order)
    if others := sorted({*sizes_of_memory(layout.folder)} - {*memory_sizes}):
        what = f"{layout.folder} has lists for K = {', '.join(map(str, others))}, and all K share their images"
        raise InputError(f"{what}: give all K in one call, or take another out or name.")
    listed = partial(os.path.relpath, start=relative_to) if relative_to else os.path.abspath
    parts = (data.train_images, data.train_labels), (data.val_images, data.val_labels)
    train, val = (ImageList(layout.folder, np.array([*map(listed, x.paths)], dtype=TEXT), y) for x, y in parts)
    ranking = rank_classes("random", None, train.labels, len(train), exemplar_seed)
    for memory in memories:
        _write_lists(layout, states, memory, train, val, ranking)
    with replacing(layout.folder / CLASS_NAMES, "w") as file:
        file.writelines(f"{name}\n" for name in data.class_names)
    return layout.folder


def _read_sources(sources: Sequence[str], root: str | Path) -> Dataset:
    """The images, which need not be there, with the data set's own labels; without a fingerprint if lists name them."""
    sources = [os.path.expanduser(source.removeprefix("folder:")) for source in sources]
    if len(sources) == 2:
        parts = [read_image_list(source) for source in sources]
        names = [str(label) for label in range(len(np.unique(parts[0].labels)))]
        for part in parts:
            expected = f"images of each of the classes 0..{names[-1]} and of no others"
            check_classes(part, len(names), f"{part.source}: expected {expected};")
        parts = [(ImageFiles(part.paths(root)), part.labels) for part in parts]
        return Dataset("", *parts[0], *parts[1], tuple(names), "")
    if len(sources) != 1:
        expected = "a folder, or two lists, of training and of validation images"
        raise InputError(f"{len(sources)} sources ({', '.join(sources)}): expected {expected}.")
    data = load_dataset(f"folder:{sources[0]}", root)
    for sentence in data.files.unused:
        warnings.warn(sentence, stacklevel=3)
    return data


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
    """A report on a data set, named as load_dataset takes it, or on a plain list: every image is decoded. root: where
    relative paths start, or the data folder. Raises InputError that names all images that can't be read, and for lists
    that a study would refuse."""
    is_data = ":" in what or what.lower().endswith(".npz") or not (Path(what).is_file() or Path(what).suffix)
    data = load_dataset(what, root) if is_data else None
    if data and not data.files:
        return "\n".join([*data.odd_contents(data.contents), f"{what}: {data}"])
    if data and data.files.lists:
        for size in filter(None, sizes_of_memory(data.files.lists)):
            given_exemplars(data, size, States(data.files.state_sizes))
    parts = [data.train_images.paths, data.val_images.paths] if data else [read_image_list(what).paths(root)]
    paths, places = np.unique(np.concatenate(parts), return_inverse=True)
    check_present(paths)
    from il2m.data.file_batches import read_all  # imports torch

    digests = read_all(ImageFiles(paths, num_workers=num_workers))
    if data:
        odd = data.odd_contents(np.split(digests[places, 1], [len(parts[0])]))
        notes = [*data.files.unused, *odd, f"{what}: {data}"]
    else:
        repeated = repeated_images(*parts)
        notes = [name_first("images occur more than once", repeated)] * bool(repeated)
    return "\n".join([*notes, f"{what}: {len(paths)} images, all of them can be read: {_sizes_and_modes(paths)}."])


def _sizes_and_modes(paths: np.ndarray) -> str:
    """Of image files, in words."""
    heads = []
    for path in paths.tolist():
        with opened(path, max_megapixels()) as image:
            heads.append((*image.size, image.mode))
    widths, heights, modes = zip(*heads, strict=True)
    counts = ", ".join(f"{number} of mode {mode}" for mode, number in Counter(modes).most_common())
    return f"{min(widths)} to {max(widths)} pixels wide, {min(heights)} to {max(heights)} high, {counts}"
