"""Files of scores: of arrays; and in the authors' layout, with their ``il2m.py``: its arguments in, its summary out.

    <lists>/<dataset>/S~<S>/  (see authors.formats)
    <first scores>/<dataset>/S~<S>/{train,val}/scores
    <scores>/<dataset>/S~<S>/K~<K>/train/batch<b>_{old,new}/scores
                                   val/batch<b>/scores

Scores are read block after block, and only what the statistics and the accuracies need of them is kept."""

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from il2m.authors.formats import ImageList, ListLayout, read_image_list, read_scores, repeated_images
from il2m.data.dataset import read_npz
from il2m.data.image_files import check_present
from il2m.data.states import States
from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics, as_array, class_means, own_and_top, statistics_of_states
from il2m.methods.rectify import count_undefined, rectify, undefined_in_words
from il2m.parameters import check_parameters
from il2m.results.metrics import ranks, top_k
from il2m.results.table import files_summary

_MOST_CLASSES = 100_000  # of all states: each has a number in every row of a text file
PARTS = ("val", "new", "exemplar", "held_out")  # of a state: validation images, new training images, exemplars, ...
Block = tuple[np.ndarray, np.ndarray]  # scores (m, C) and labels (m,)
_ARRAYS = (".npy", ".pt", ".pth", ".ckpt")  # files of one array, or of tensors


def files_of(path: Path) -> list[Path]:
    """A file, or the files of arrays in a folder."""
    return sorted(file for file in path.glob("[!.]*") if file.suffix in _ARRAYS) if path.is_dir() else [path]


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """All arrays, or those of ``names`` that are there, of an ``.npz``, of a file of tensors by name, or of a folder of
    files named by the one array or tensor in each. Raises InputError for a file that holds anything else."""
    if path.is_dir():
        found = [each for file in files_of(path) for each in read_arrays(file, names).items()]
        if len(arrays := dict(found)) < len(found):
            raise InputError(f"{path}: {len(found)} arrays, but {len(arrays)} names ({', '.join(arrays)}).")
        return arrays
    if path.suffix not in _ARRAYS:
        return read_npz(path, names)
    try:
        if path.suffix == ".npy":
            content = np.load(path, allow_pickle=False)
        else:
            import torch  # slow to import, and only needed here

            content = torch.load(path, map_location="cpu", weights_only=True)
        content = content if isinstance(content, dict) else {path.stem: content}
        return {name: as_array(values) for name, values in content.items() if names is None or name in names}
    except Exception as error:  # a damaged file raises whatever numpy, zipfile or torch meet first
        what = f"no file of plain arrays or tensors ({type(error).__name__}); write it with numpy.save or torch.save"
        raise InputError(f"{path}: {what}.") from None


def check_labels(at: str, labels: np.ndarray, states: States, state: int, part: str, paths: Sequence[str] = ()) -> None:
    """Raise InputError for labels that can't be in this part of a state or lack there. paths: (n,), if known."""
    num_past, num_seen = states.num_past(state), states.num_seen(state)
    start, stop = {"new": (num_past, num_seen), "exemplar": (0, num_past)}.get(part, (0, num_seen))
    if len(outside := np.flatnonzero((labels < start) | (labels >= stop))):
        image = f"image {outside[0] + 1}" + (f" ({paths[outside[0]]})" if len(paths) else "")
        found = f"{len(outside)} labels are out of range, the first of them {labels[outside[0]]}, of {image}"
        raise InputError(f"{at}: {found}; expected {start}..{stop - 1}. Do the states given fit the data?")
    rows = {"new": "training", "exemplar": "exemplar"} | ({"val": "validation"} if len(paths) else {})
    if part in rows and len(absent := np.setdiff1d(np.arange(start, stop), labels)):
        raise InputError(f"{at}: {len(absent)} class(es) have no {rows[part]} rows, as {absent[:10].tolist()}.")


@dataclass(frozen=True)
class AuthorsFiles:
    """Lists and scores of one run in the authors' layout. lists, scores, first_scores: the three roots."""

    lists: Path
    scores: Path
    first_scores: Path
    dataset: str
    states: States
    memory_size: int

    def __str__(self) -> str:
        """As arguments of the authors' ``il2m.py``, for a shell."""
        sizes = self.states.sizes
        classes = ",".join(map(str, sizes[:1] if len({*sizes}) == 1 else sizes))
        words = (self.lists, self.scores, self.first_scores, self.dataset, len(sizes), classes, self.memory_size)
        return shlex.join(map(str, words))

    @property
    def list_layout(self) -> ListLayout:
        return ListLayout(self.lists / self.dataset / f"S~{self.states.num_states}")

    def pairs(self, state: int) -> dict[str, tuple[Path, Path]]:
        """The list and the score file of each part that there is; the first state has no exemplars."""
        layout, split = self.list_layout, Path(self.dataset, f"S~{self.states.num_states}")
        new, old = layout.train(state, self.memory_size, "new"), layout.train(state, self.memory_size, "old")
        lists = {"new": new, "exemplar": old, "val": layout.val(state, "accumulated")}
        folder, places = self.first_scores / split, {"new": "train", "val": "val"}
        if state > 1:
            folder, b = self.scores / split / f"K~{self.memory_size}", f"batch{state}"
            places = {"new": f"train/{b}_new", "exemplar": f"train/{b}_old", "val": f"val/{b}"}
        return {part: (lists[part], folder / place / "scores") for part, place in places.items()}

    @property
    def paths(self) -> list[Path]:
        """All lists and score files, state after state."""
        states = range(1, self.states.num_states + 1)
        return [path for state in states for pair in self.pairs(state).values() for path in pair]

    def read(self, state: int, part: str, score_kind: str = "raw") -> tuple[ImageList, Iterator[Block]]:
        """A part of a state: its list, and its Blocks. Raises InputError as check_labels, or where rows don't match."""
        list_path, scores_path = self.pairs(state)[part]
        images = read_image_list(list_path)
        check_labels(f"{list_path}: state {state}", images.labels, self.states, state, part, images.images)
        return images, self._blocks(state, images, scores_path, score_kind)

    def _blocks(self, state: int, images: ImageList, path: Path, score_kind: str) -> Iterator[Block]:
        done = 0
        for scores in read_scores(path, self.states.num_seen(state)):
            labels = images.labels[done : done + len(scores)]
            done += len(scores)
            if len(labels) == len(scores):
                yield (softmax(scores, axis=1) if score_kind == "softmax" else scores), labels
        if done != len(images):
            counts = f"{done} rows of scores, but {images.source} {len(images)} images"
            raise InputError(f"state {state}: {path} has {counts}.")


def authors_files(
    lists: Path, scores: Path, first_scores: Path, dataset: str, num_states: int, sizes: Sequence[int], memory_size: int
) -> AuthorsFiles:
    """The files that the arguments of the authors' ``il2m.py`` name, in its order. sizes: P, or one for each state."""
    given = f"S = {num_states}, P = {','.join(map(str, sizes[:10]))}{',...' if len(sizes) > 10 else ''}"
    if num_states < 1 or min(sizes) < 1 or len(sizes) not in (1, num_states):
        expected = "the number of states, and the classes per state (one number, or one for each of the S states)"
        raise InputError(f"{given}: expected {expected}.")
    repeats = num_states if len(sizes) == 1 else 1
    if (total := sum(sizes) * repeats) > _MOST_CLASSES:
        raise InputError(f"{given}: {total} classes in all; expected at most {_MOST_CLASSES}. Check S and P.")
    if memory_size < 1:
        raise InputError(f"K = {memory_size}: expected the size of the memory, a whole number of at least 1.")
    return AuthorsFiles(*map(Path, (lists, scores, first_scores)), dataset, States(tuple(sizes) * repeats), memory_size)


@dataclass(frozen=True)
class Summary:
    """Accuracies by state, (S,) each, as fractions; notes: what a reader of them should know."""

    top1: dict[str, list[float]]
    top5: dict[str, list[float]]
    notes: list[str]

    def percent(self) -> dict[str, dict[str, list[float]]]:
        """``{"FT": {"top1": [...], "top5": [...]}, "IL2M": {...}}``, percent, unrounded."""
        tops = {"top1": self.top1, "top5": self.top5}
        return {method: {k: [100 * v for v in top[method]] for k, top in tops.items()} for method in self.top1}

    def __str__(self) -> str:
        return "\n".join([*files_summary(self.top1, self.top5), *self.notes])


def rectify_files(files: AuthorsFiles, *, score_kind: str = "raw", undefined: str = "keep") -> Summary:
    """Fine-tuning's and IL2M's accuracies from files in the authors' layout, as their ``il2m.py`` computes them.
    score_kind: ``raw`` (the paper's) or ``softmax``. undefined: see rectify.rectification_factors.
    Raises InputError for files that are missing or don't fit each other."""
    check_parameters({"score_kind": score_kind, "undefined": undefined})
    check_present(files.paths, f"of {len(files.paths)} files are missing")
    memories, notes, counts = [], [], {}
    top1, top5 = ({"FT": [], "IL2M": []} for _ in range(2))
    for state in range(1, files.states.num_states + 1):
        num_past, num_seen = files.states.num_past(state), files.states.num_seen(state)
        parts = {part: files.read(state, part, score_kind) for part in files.pairs(state)}
        for images, _ in parts.values():
            if repeated := repeated_images(images.images):
                notes.append(f"{images.source}: {len(repeated)} images occur more than once, first {repeated[0]!r}")
        means, top = _class_means_and_top(*parts["new"], num_seen)
        current = _class_means_and_top(*parts["exemplar"], num_past)[0] if num_past else []
        memories.append({"initial_means": means[num_past:], "confidence": top.mean(), "current_means": current})
        statistics = statistics_of_states(memories, files.states.of_class[:num_seen])
        counts[state] = count_undefined(statistics), num_past
        before_and_after = ranks_before_and_after(parts["val"][1], statistics, undefined=undefined)
        for method, image_ranks in zip(top1, before_and_after, strict=True):
            top1[method].append(top_k(image_ranks, 1))
            top5[method].append(top_k(image_ranks, 5))
    notes += filter(None, [undefined_in_words(counts, score_kind, undefined)])
    return Summary(top1, top5, notes)


def ranks_before_and_after(
    blocks: Iterable[Block], statistics: ClassStatistics, *, undefined: str = "keep"
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the true class before and after rectification, (n,) each. blocks: of scores of the statistics' kind."""
    pairs = ((ranks(x, y), ranks(rectify(x, statistics, undefined=undefined), y)) for x, y in blocks)
    return tuple(map(np.concatenate, zip(*pairs, strict=True)))


def _class_means_and_top(images: ImageList, blocks: Iterator[Block], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Each class's mean score, (num_classes,), and each image's highest score, (n,)."""
    own, top = map(np.concatenate, zip(*(own_and_top(*block) for block in blocks), strict=True))
    return class_means(own, images.labels, num_classes), top
