"""Metrics of one state: small functions on arrays, fractions unrounded, NaN where there is nothing to take a mean of.
``labels`` are in learning order; ``num_past`` is how many classes the *model's* state calls past (0..num_past-1)."""

from collections.abc import Sequence

import numpy as np

from il2m.errors import InputError
from il2m.memory.statistics import class_means

_ROWS = 256  # ranked at a time: small enough to stay in the processor's cache


def ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the true one, (n,) int64: 0 means top-1. Of equal scores the lower label is first.
    scores: (n, C) of any kind. labels: (n,). Raises InputError for labels of others and for NaN."""
    if labels.shape != scores.shape[:1] or (len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]):
        raise InputError(f"labels don't fit scores {scores.shape}: expected one of 0..{scores.shape[1] - 1} per image.")
    result, classes = np.empty(len(scores), dtype=np.int64), np.arange(scores.shape[1])
    for start in range(0, len(scores), _ROWS):
        block, own_label = scores[start : start + _ROWS], labels[start : start + _ROWS, None]
        own = np.take_along_axis(block, own_label, axis=1)
        result[start : start + _ROWS] = np.count_nonzero(block > own, axis=1)
        equal = block == own
        if np.count_nonzero(equal) != len(block):  # else each is equal to itself alone
            result[start : start + _ROWS] += np.count_nonzero(equal & (classes < own_label), axis=1)
        if np.isnan(block.max()):
            raise InputError(f"the scores of image {start + np.isnan(block).any(axis=1).argmax()} are not all numbers.")
    return result


def top_k(image_ranks: np.ndarray, k: int) -> float:
    """Share of images whose true class is among the k first. image_ranks: (n,), from ranks."""
    return _mean(image_ranks < k)


def mean_over_states(values: np.ndarray, first: int = 2) -> float:
    """Mean of a by-state series (S,) over states first..S: 2 as in the paper, after Castro et al. (2018); 1 for all."""
    return _mean(np.asarray(values, dtype=np.float64)[first - 1 :])


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def predictions(scores: np.ndarray) -> np.ndarray:
    """Top-1 class of each image, (n,). Of equal scores the lower label wins."""
    return scores.argmax(axis=1)


def share_new(classes: np.ndarray, num_past: int) -> float:
    """Share of ``classes`` (predicted or true, (n,)) that are new: where predictions go against where they should."""
    return _mean(classes >= num_past)


def error_breakdown(predicted: np.ndarray, labels: np.ndarray, num_past: int) -> dict[str, float]:
    """Share of all images that are wrong, by (true, predicted) group; the four add up to 1 - top-1. ``past as past``: a
    past image taken for another past class; ``past as new``: taken for a new class; and so on."""
    wrong, past, as_past = predicted != labels, labels < num_past, predicted < num_past
    groups = {"past as past": past & as_past, "past as new": past & ~as_past}
    groups |= {"new as past": ~past & as_past, "new as new": ~past & ~as_past}
    return {name: _mean(wrong & group) for name, group in groups.items()}


def state_confusion(predicted: np.ndarray, labels: np.ndarray, state_of_class: np.ndarray) -> np.ndarray:
    """(N, N) shares: of the images whose class came in state i (row), how many are predicted into state j (column)."""
    counts = np.zeros((state_of_class.max(),) * 2, dtype=np.int64)
    np.add.at(counts, (state_of_class[labels] - 1, state_of_class[predicted] - 1), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def accuracy_matrix(hits: Sequence[np.ndarray], class_states: Sequence[np.ndarray]) -> np.ndarray:
    """Top-1 accuracy on the classes of each state (row) by the model of each state (column), (S, S). NaN where the
    model is older than the classes, or no image of them was evaluated. hits: for each state's model, (n,) bool of its
    validation images. class_states: the states, from 1, of the images' true classes, (n,) each."""
    matrix = np.full((len(hits), len(hits)), np.nan)
    for model, (hit, state) in enumerate(zip(hits, class_states, strict=True)):
        matrix[: model + 1, model] = class_means(hit, state - 1, model + 1)[: model + 1]
    return matrix


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """By state of the model, (S,): how far the classes of earlier states fell from their best accuracy so far, mean
    over those states (Chaudhry et al., ECCV 2018). NaN for state 1. matrix: from accuracy_matrix."""
    best = np.fmax.accumulate(matrix, axis=1)  # so far; it passes over NaN
    losses = [np.mean(best[:model, model - 1] - matrix[:model, model]) for model in range(1, len(matrix))]
    return np.array([np.nan, *losses])


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """By state of the model, (S,): how much better the classes of earlier states do now than when they were new, mean
    over those states (Lopez-Paz and Ranzato, NeurIPS 2017). NaN for state 1. matrix: from accuracy_matrix."""
    gains = [np.mean(matrix[:model, model] - np.diag(matrix)[:model]) for model in range(1, len(matrix))]
    return np.array([np.nan, *gains])


def rank_changes(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """What a correction did to the true class's place, as shares of images. ``corrected``: wrong before, top-1 after;
    ``broken``: the reverse; ``moved up, moved down``: nearer to or farther from the top. before, after: ranks, (n,)."""
    changes = {"corrected": (before > 0) & (after == 0), "broken": (before == 0) & (after > 0)}
    changes |= {"moved up": after < before, "moved down": after > before}
    return {name: _mean(changed) for name, changed in changes.items()}


def mean_gap(accuracies: np.ndarray, full: np.ndarray, best: float = 1.0) -> float:
    """Mean of ``(acc - Full) / (best - Full)``, fractions, (n,): 0 is as good as Full, negative is below it. Over
    configurations, Full being one training on all their classes, it is the survey's G_IL (Belouadah et al., Neural
    Networks 2021). NaN where Full is as good as can be somewhere: there is no gap to measure by."""
    full = np.asarray(full, dtype=np.float64)
    return _mean((np.asarray(accuracies) - full) / (best - full)) if (full != best).all() else float("nan")
