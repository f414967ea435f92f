"""Second memory: a few floats per class that remember how it scored when it was learned.

In the paper's notation, for class C_i that was new in state P, and current state N:
``mu_P(C_i)``, the mean score of C_i over its training images in state P (*initial mean*);
``mu_N(C_i)``, its mean score over its exemplars in state N (*current mean*);
``mu(M_b)``, the mean of the highest score over the training images of state b's new classes (*confidence* of state b).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassStatistics:
    """What Eq. 1 needs to know at the current state N, for C classes seen so far.

    initial_means: (C,) mu_P(C_i). current_means: (C,) mu_N(C_i); for new classes the initial mean.
    confidences: (N,) mu(M_b) of states 1..N. state_of_class: (C,) the state P in which each class was new, from 1.
    """

    initial_means: np.ndarray
    current_means: np.ndarray
    confidences: np.ndarray
    state_of_class: np.ndarray

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

    own_scores: (n,) each image's score for its own class. labels: (n,).
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=own_scores, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return sums / counts
