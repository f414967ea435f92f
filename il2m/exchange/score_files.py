"""The authors' layout of lists and scores on disk, and their ``il2m.py``: its arguments in, its summary out.

    <lists>/<dataset>/S~<S>/batch1/{train,val}.lst
                            separated/val/batch<b>           accumulated/val/batch<b>
                            unbalanced/train/K~<K>/<b>_old   unbalanced/train/K~<K>/<b>_new
    <first scores>/<dataset>/S~<S>/{train,val}/scores
    <scores>/<dataset>/S~<S>/K~<K>/train/batch<b>_{old,new}/scores
                                   val/batch<b>/scores

Scores are read block after block, and only what the statistics and the accuracies need of them is kept.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from il2m.authors.formats import ImageList, read_image_list, read_scores, repeated_images
from il2m.authors.layout import ListLayout
from il2m.data.states import States
from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics, class_means, own_and_top
from il2m.methods.rectify import rectification_factors, rectify
from il2m.results.metrics import mean_over_states, ranks, top_k

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]  # scores (m, C) and labels (m,), one block after the other


def classes_of(states: States, state: int, part: str) -> range:
    """The labels that may stand in a part of a state: ``new`` training images, ``old`` exemplars, ``val``."""
    if part == "new":
        return states.new_classes(state)
    return range(states.num_past(state) if part == "old" else states.num_seen(state))


def check_labels(where: str, labels: np.ndarray, classes: range, part: str, names: np.ndarray | None = None) -> None:
    """Raise InputError for labels out of range, and for classes without the images that every class needs.

    where: begins the message. part: as in classes_of. names: (n,) of the images, if they have any.
    """
    outside = np.flatnonzero((labels < classes.start) | (labels >= classes.stop))
    if len(outside):
        first = outside[0]
        image = f"image {first + 1}" + ("" if names is None else f" ({names[first]})")
        raise InputError(
            f"{where}: {len(outside)} labels are out of range, the first of them {labels[first]}, of {image}; expected "
            f"{classes.start}..{classes.stop - 1}. Do the states given fit the data?"
        )
    absent = np.setdiff1d(classes, labels)
    if len(absent) and part != "val":
        what = "past class(es) have no exemplar rows" if part == "old" else "class(es) have no training rows"
        raise InputError(f"{where}: {len(absent)} {what}, among them {absent[:10].tolist()}.")


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
        sizes = set(self.states.sizes)
        classes = self.states.sizes[0] if len(sizes) == 1 else ",".join(map(str, self.states.sizes))
        words = (self.lists, self.scores, self.first_scores, self.dataset, self.states.num_states, classes)
        return shlex.join(map(str, (*words, self.memory_size)))

    @property
    def list_layout(self) -> ListLayout:
        return ListLayout(self.lists / self.dataset / f"S~{self.states.num_states}")

    def pairs(self, state: int) -> dict[str, tuple[Path, Path]]:
        """The list and the score file of each part of a state: ``new``, ``val``, and after the first state ``old``."""
        layout, split = self.list_layout, f"{self.dataset}/S~{self.states.num_states}"
        if state == 1:
            scores = self.first_scores / split
            return {
                "new": (layout.new(1, self.memory_size), scores / "train/scores"),
                "val": (layout.accumulated_val(1), scores / "val/scores"),
            }
        scores = self.scores / split / f"K~{self.memory_size}"
        return {
            "new": (layout.new(state, self.memory_size), scores / f"train/batch{state}_new/scores"),
            "old": (layout.old(state, self.memory_size), scores / f"train/batch{state}_old/scores"),
            "val": (layout.accumulated_val(state), scores / f"val/batch{state}/scores"),
        }

    def check_present(self) -> None:
        """Raise InputError that names every list and score file that is missing."""
        files = [path for b in range(1, self.states.num_states + 1) for pair in self.pairs(b).values() for path in pair]
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(files)} files are missing:\n" + "\n".join(f"  {path}" for path in missing)
            )

    def labels(self, state: int, part: str) -> ImageList:
        """One list, its labels checked; raises InputError for one out of range, and for a class without images where
        every class needs them."""
        images = read_image_list(self.pairs(state)[part][0])
        check_labels(
            f"{images.source}: state {state}", images.labels, classes_of(self.states, state, part), part, images.images
        )
        return images

    def blocks(self, state: int, part: str, images: ImageList) -> Blocks:
        """Raw scores and labels of a part of a state. Raises InputError when rows and list lines don't match."""
        done = 0
        path = self.pairs(state)[part][1]
        for scores in read_scores(path, self.states.num_seen(state)):
            labels = images.labels[done : done + len(scores)]
            done += len(scores)
            if len(labels) == len(scores):
                yield scores, labels
        if done != len(images):
            raise InputError(
                f"state {state}: {path} has {done} rows of scores, but {images.source} {len(images)} images."
            )


def authors_files(
    lists: Path, scores: Path, first_scores: Path, dataset: str, num_states: int, sizes: Sequence[int], memory_size: int
) -> AuthorsFiles:
    """The files that the arguments of the authors' ``il2m.py`` name, in its order. sizes: P, or one for each state."""
    if num_states < 1 or min(sizes) < 1 or len(sizes) not in (1, num_states):
        raise InputError(
            f"S = {num_states}, P = {','.join(map(str, sizes))}: expected the number of states, and the classes per "
            "state (one number, or one for each of the S states)."
        )
    if memory_size < 1:
        raise InputError(f"K = {memory_size}: expected the size of the memory, a whole number of at least 1.")
    states = States(tuple(sizes) * (num_states if len(sizes) == 1 else 1))
    return AuthorsFiles(Path(lists), Path(scores), Path(first_scores), dataset, states, memory_size)


@dataclass(frozen=True)
class Summary:
    """Accuracies by state, (S,) each, as fractions; notes: what a reader of them should know."""

    top1: dict[str, list[float]]
    top5: dict[str, list[float]]
    notes: list[str]

    def percent(self) -> dict[str, dict[str, list[float]]]:
        """``{"FT": {"top1": [...], "top5": [...]}, "IL2M": {...}}``, percent, unrounded."""
        return {
            method: {"top1": [100 * v for v in self.top1[method]], "top5": [100 * v for v in self.top5[method]]}
            for method in self.top1
        }

    def __str__(self) -> str:
        lines = []
        for b in range(len(self.top1["FT"])):
            for method in self.top1:
                accuracies = 100 * self.top1[method][b], 100 * self.top5[method][b]
                lines.append(
                    f"[b{b + 1}] {method:<5} | Val : acc@1 = {accuracies[0]:.4f}% ; acc@5 = {accuracies[1]:.4f}%"
                )
        for method in self.top1:
            top1, top5 = self.top1[method], self.top5[method]
            lines += [
                f"{'*' * 30} {method} {'*' * 30}",
                f"Top1 Acc = {[round(value, 4) for value in top1]}",
                f"Top5 Acc = {[round(value, 4) for value in top5]}",
                f"Mean inc Acc | acc@1 = {mean_over_states(top1):.4f} | acc@5 = {mean_over_states(top5):.4f}",
            ]
        return "\n".join([*lines, *self.notes])


def rectify_files(files: AuthorsFiles, *, score_kind: str = "raw", undefined: str = "keep") -> Summary:
    """Fine-tuning's and IL2M's accuracies from files in the authors' layout, as their ``il2m.py`` computes them.

    score_kind: ``raw`` (the paper's) or ``softmax``. undefined: see rectify.rectification_factors; ``as-published`` is
    what the authors' script does. Raises InputError for files that are missing or don't fit each other.
    """
    files.check_present()
    initial_means, confidences, notes = [], [], []
    top1, top5 = ({"FT": [], "IL2M": []} for _ in range(2))
    for state in range(1, files.states.num_states + 1):
        parts = {}
        for part in files.pairs(state):
            images = files.labels(state, part)
            if repeated := repeated_images(images.images):
                notes.append(f"{images.source}: {len(repeated)} images occur more than once, first {repeated[0]!r}")
            blocks = files.blocks(state, part, images)
            parts[part] = (images.labels, _of_kind(blocks, score_kind))
        labels, blocks = parts["new"]
        own, top = _own_and_top(blocks)
        initial_means.append(class_means(own, labels, files.states.num_seen(state))[files.states.num_past(state) :])
        confidences.append(top.mean())
        initial = np.concatenate(initial_means)
        current = initial.copy()
        if state > 1:
            labels, blocks = parts["old"]
            num_past = files.states.num_past(state)
            current[:num_past] = class_means(_own_and_top(blocks)[0], labels, num_past)
        statistics = ClassStatistics(initial, current, np.array(confidences), files.states.of_class[: len(initial)])
        notes += _undefined_note(statistics, undefined)
        before_and_after = ranks_before_and_after(parts["val"][1], statistics, undefined=undefined)
        for method, image_ranks in zip(top1, before_and_after, strict=True):
            top1[method].append(top_k(image_ranks, 1))
            top5[method].append(top_k(image_ranks, 5))
    return Summary(top1, top5, notes)


def ranks_before_and_after(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], statistics: ClassStatistics, *, undefined: str = "keep"
) -> tuple[np.ndarray, np.ndarray]:
    """Each image's rank of its true class (metrics.ranks) before and after rectification, (n,) each; only one block's
    scores are held at a time. blocks: scores (m, C) of the statistics' kind, and labels (m,)."""
    before, after = [], []
    for scores, labels in blocks:
        before.append(ranks(scores, labels))
        after.append(ranks(rectify(scores, statistics, undefined=undefined), labels))
    return np.concatenate(before), np.concatenate(after)


def _of_kind(blocks: Blocks, score_kind: str) -> Blocks:
    for scores, labels in blocks:
        yield (softmax(scores, axis=1) if score_kind == "softmax" else scores), labels


def _own_and_top(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Each image's score for its own class, and its highest score, (n,) each."""
    own, top = zip(*(own_and_top(scores, labels) for scores, labels in blocks), strict=True)
    return np.concatenate(own), np.concatenate(top)


def _undefined_note(statistics: ClassStatistics, undefined: str) -> list[str]:
    policy = "keep" if undefined == "raise" else undefined  # to raise is rectify's
    count = int(rectification_factors(statistics, undefined=policy).undefined.sum())
    if not count:
        return []
    done = "left alone" if undefined == "keep" else "rectified all the same"
    return [
        f"state {statistics.state}: a mean score is not positive for {count} of {int(statistics.is_past.sum())} past "
        f"classes; their scores are {done} (undefined = {undefined})"
    ]
