"""Second memory: a few floats per class that remember how it scored when it was learned.

In the paper's notation, for class C_i that was new in state P, and current state N:
``mu_P(C_i)``, the mean score of C_i over its training images in state P (*initial mean*);
``mu_N(C_i)``, its mean score over its exemplars in state N (*current mean*);
``mu(M_b)``, the mean of the highest score over the training images of state b's new classes (*confidence* of state b).
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from il2m.errors import InputError

QUANTITIES = {"raw": "scores", "softmax": "probabilities"}  # kind of score -> what its own and top values are called


def as_array(values: Any, what: str = "") -> np.ndarray:
    """Whatever np.asarray takes, or a tensor of any device and dtype (numpy has no bfloat16). Raises InputError, which
    begins with ``what``, if that is given and these are not numbers, or rows of differing length."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
    with contextlib.suppress(*[ValueError] * bool(what)):  # numpy's, of rows that differ
        array = np.asarray(values)
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
    sums = np.bincount(labels, weights=own_scores, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return sums / counts


def reduce_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What the second memory needs of images: ``own_scores, top_scores`` (raw) and ``own_probabilities,
    top_probabilities`` (after softmax), (n,) each. scores: (n, C), raw. labels: (n,)."""
    from scipy.special import softmax  # slow to import, and only needed here

    return {
        f"{part}_{quantity}": reduced
        for quantity, values in (("scores", scores), ("probabilities", softmax(scores, axis=1)))
        for part, reduced in zip(("own", "top"), own_and_top(values, labels), strict=True)
    }


def state_statistics(
    new: Mapping[str, np.ndarray],
    new_labels: np.ndarray,
    exemplars: Mapping[str, np.ndarray],
    exemplar_labels: np.ndarray,
    num_past: int,
    num_seen: int,
) -> dict[str, dict[str, Any]]:
    """What one state contributes to the second memory: kind of score -> ``initial_means`` of its new classes,
    ``confidence``, and ``current_means`` of past classes. NaN where there are no images.
    new, exemplars: what reduce_scores gives of the new classes' training images, labels (n,), and of the exemplars,
    labels (m,); empty if there are none."""
    memory = {}
    for kind, quantity in QUANTITIES.items():
        own, top, kept = new.get(f"own_{quantity}"), new.get(f"top_{quantity}"), exemplars.get(f"own_{quantity}")
        initial = np.full(num_seen, np.nan) if own is None else class_means(own, new_labels, num_seen)
        current = np.full(num_past, np.nan) if kept is None else class_means(kept, exemplar_labels, num_past)
        memory[kind] = {
            "initial_means": initial[num_past:].tolist(),
            "confidence": float("nan") if top is None else float(top.mean(dtype=np.float64)),
            "current_means": current.tolist(),
        }
    return memory


def statistics_of_states(memories: Sequence[Mapping[str, Any]], state_of_class: np.ndarray) -> ClassStatistics:
    """The second memory as it stands at the last of these states.
    memories: of states 1..N, of one kind of score, as state_statistics gives them. state_of_class: (C,) from 1."""
    initial = np.concatenate([memory["initial_means"] for memory in memories], dtype=np.float64)
    current_past = memories[-1]["current_means"]
    current = np.concatenate([current_past, initial[len(current_past) :]], dtype=np.float64)
    confidences = np.array([memory["confidence"] for memory in memories])
    return ClassStatistics(initial, current, confidences, state_of_class)
