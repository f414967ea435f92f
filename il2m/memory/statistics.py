"""Second memory: a few floats per class that remember how it scored when it was learned.

In the paper's notation, for class C_i that was new in state P, and current state N:
``mu_P(C_i)``, the mean score of C_i over its training images in state P (*initial mean*);
``mu_N(C_i)``, its mean score over its exemplars in state N (*current mean*);
``mu(M_b)``, the mean of the highest score over training images of state b's new classes (*confidence* of state b)."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from il2m.errors import InputError
from il2m.parameters import check_parameters
from il2m.rules import FLAG, check_choice

QUANTITIES = {"raw": "scores", "softmax": "probabilities"}  # kind of score -> what its own and top values are called
Arrays = Mapping[str, np.ndarray]  # by name


def as_array(values: Any, what: str = "") -> np.ndarray:
    """Whatever np.asarray takes, or a tensor of any device and dtype (numpy has no bfloat16). Raises InputError, which
    begins with ``what``, if that is given and these are not numbers, or rows of differing length."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
    with contextlib.suppress(*[ValueError] * bool(what)):  # numpy's, of rows that differ
        array = np.asarray(values) if np.asarray(values).dtype != np.float16 else np.asarray(values, dtype=np.float32)
        if not what or array.dtype.kind in "fiu":
            return array
    raise InputError(f"{what}: {repr(values)[:80]}: expected an array of numbers, or a tensor or lists of one.")


@dataclass(frozen=True)
class ClassStatistics:
    """What Eq. 1 needs to know at the current state N, for C classes seen so far.
    initial_means: (C,) mu_P(C_i). current_means: (C,) mu_N(C_i); for new classes the initial mean.
    confidences: (N,) mu(M_b) of states 1..N. state_of_class: (C,) the state P in which each class was new, from 1."""

    initial_means: np.ndarray
    current_means: np.ndarray
    confidences: np.ndarray
    state_of_class: np.ndarray

    @classmethod
    def of_arrays(cls, initial_means: Any, current_means: Any, confidences: Any, state_sizes: Any) -> Self:
        """Of arrays, tensors or lists. state_sizes: (N,) classes that each state brought; the others as above, but
        current_means may be of past classes alone. Raises InputError where they don't fit each other."""
        given = (as_array(each, "memory") for each in (initial_means, current_means, confidences, state_sizes))
        initial, current, confidences, sizes = arrays = [*map(np.atleast_1d, given)]
        whole = sizes.dtype.kind in "iu" and sizes.ndim == 1 and (sizes > 0).all()
        fit = [[(sizes.sum(),), (known,), sizes.shape, sizes.shape] for known in (sizes.sum(), sizes[:-1].sum())]
        if not whole or [array.shape for array in arrays] not in fit:
            what = "initial_means (C,), current_means (C,) or (past,), confidences (N,), state_sizes (N,), C in all"
            raise InputError(f"memory {[array.shape for array in arrays]}, {sizes.tolist()}: expected {what}.")
        current = np.concatenate([current, initial[len(current) :]])
        return cls(initial, current, confidences, np.repeat(np.arange(1, len(sizes) + 1), sizes))

    @property
    def state(self) -> int:
        return len(self.confidences)

    @property
    def is_past(self) -> np.ndarray:
        """(C,) bool: classes learned before the current state."""
        return self.state_of_class < self.state


def own_and_top(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's score for its own class, and its highest score, both (n,). scores (n, C); labels (n,)."""
    return scores[np.arange(len(labels)), labels], scores.max(axis=1)


def class_means(own_scores: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean score of each class over its own images, (num_classes,) float64; NaN for a class without images.
    own_scores: (n,) each image's score for its own class. labels: (n,)."""
    counts = np.bincount(labels, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, weights=own_scores, minlength=num_classes) / counts


def reduce_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What the second memory needs of images: ``own_scores, top_scores`` (raw) and ``own_probabilities,
    top_probabilities`` (after softmax), (n,) each. scores: (n, C), raw. labels: (n,)."""
    from scipy.special import softmax  # slow to import, and only needed here

    own, top = own_and_top(scores, labels)
    own_share, top_share = own_and_top(softmax(scores, axis=1), labels)
    return {"own_scores": own, "top_scores": top, "own_probabilities": own_share, "top_probabilities": top_share}


def state_statistics(
    new: Arrays, new_labels: np.ndarray, exemplars: Arrays, exemplar_labels: np.ndarray, num_past: int, num_seen: int
) -> dict[str, dict[str, Any]]:
    """What one state contributes to the second memory: kind of score -> ``initial_means`` of its new classes,
    ``confidence``, and ``current_means`` of past classes. NaN where there are no images.
    new, exemplars: what reduce_scores gives of new classes' training images, (n,), and of exemplars, (m,); or empty."""
    memory = {}
    for kind, quantity in QUANTITIES.items():
        own, top, kept = new.get(f"own_{quantity}"), new.get(f"top_{quantity}"), exemplars.get(f"own_{quantity}")
        initial = np.full(num_seen, np.nan) if own is None else class_means(own, new_labels, num_seen)
        current = np.full(num_past, np.nan) if kept is None else class_means(kept, exemplar_labels, num_past)
        confidence = float("nan") if top is None else float(top.mean(dtype=np.float64))
        memory[kind] = {"initial_means": initial[num_past:].tolist(), "confidence": confidence}
        memory[kind]["current_means"] = current.tolist()
    return memory


def statistics_of_states(memories: Sequence[Mapping[str, Any]], state_of_class: np.ndarray) -> ClassStatistics:
    """The second memory as it stands at the last of these states.
    memories: of states 1..N, of one kind of score, as state_statistics gives them. state_of_class: (C,) from 1."""
    initial = np.concatenate([memory["initial_means"] for memory in memories], dtype=np.float64)
    current_past = memories[-1]["current_means"]
    current = np.concatenate([current_past, initial[len(current_past) :]], dtype=np.float64)
    return ClassStatistics(initial, current, np.array([memory["confidence"] for memory in memories]), state_of_class)


class Factors(NamedTuple):
    """values: (C,) what each class's score is multiplied by. undefined: (C,) bool, whose ratio means nothing."""

    values: np.ndarray
    undefined: np.ndarray


def rectification_factors(
    statistics: ClassStatistics,
    *,
    use_means: bool = True,
    use_confidence: bool = True,
    undefined: str = "keep",
    pooling: str = "class",
    clip: tuple[float, float] | None = None,
) -> Factors:
    """The factor of each class in Eq. 1; 1 for new classes.
    pooling: whose means the ratio of class means is of: each ``class``'s own (the paper), or the mean over the classes
    of its ``state``, or over all ``past`` classes. clip: the least and the largest factor of a past class.
    A ratio is undefined where a mean it is made of is missing or not positive: raw scores can be negative, and a ratio
    of such means would push a past class the wrong way or by a wild amount. ``undefined`` says what then happens:
    ``keep`` leaves that class's score alone, ``as-published`` multiplies anyway as the authors' script does (a ratio
    that isn't finite still leaves it alone), ``raise`` raises InputError."""
    check_parameters({"undefined": undefined})
    check_choice("pooling", pooling, ("class", "state", "past"))
    for name, value in {"use_means": use_means, "use_confidence": use_confidence}.items():
        check_choice(name, value, FLAG)
    if clip and not (np.shape(clip) == (2,) and np.asarray(clip).dtype.kind in "fiu" and clip[0] <= clip[1]):
        raise InputError(f"clip = {clip!r}: expected the least and the largest factor of a past class, or None.")
    past, own_confidences = statistics.is_past, statistics.confidences[statistics.state_of_class - 1]
    means = [statistics.initial_means, statistics.current_means]
    if pooling != "class":
        pools = statistics.state_of_class if pooling == "state" else (~past).astype(np.intp)
        means = [(np.bincount(pools, each) / np.maximum(np.bincount(pools), 1))[pools] for each in means]
    ratios = [means] * bool(use_means) + [[statistics.confidences[-1], own_confidences]] * bool(use_confidence)
    values, bad = np.ones(len(past)), np.zeros(len(past), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for numerator, denominator in ratios:
            values = values * (numerator / denominator)
            bad |= past & ~((numerator > 0) & (denominator > 0))
    values = np.clip(values, *clip) if clip else values
    if undefined == "raise" and bad.any():
        classes = np.flatnonzero(bad)[:10].tolist()
        what = f"the rectification of class(es) {classes} is undefined (a mean score is missing or not positive)"
        remedy = "Train longer, or use undefined = 'keep' or 'as-published'."
        raise InputError(f"state {statistics.state}: {what}. {remedy}")
    left_alone = ~past | (bad if undefined == "keep" else ~np.isfinite(values))
    return Factors(np.where(left_alone, 1.0, values), bad)
