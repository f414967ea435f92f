"""The bound of shifts between states, as a method of the study.

    il2m run quickstart --plugin benchmarks/plugins/state_shifts.py

One number per past state is added to the scores of its classes, tuned on the validation images themselves: what any
such shift can reach, be it found by thresholds, by rectification or by fitting.
"""

import numpy as np

import il2m
from il2m.methods.frozen import Frozen


def best_shifts(scores: np.ndarray, labels: np.ndarray, state_of_class: np.ndarray) -> np.ndarray:
    """What added to the scores of each state's classes makes most images right, (N,), 0 for the newest: all past states
    together and one by one, each exactly, until none helps any more (a local optimum).
    scores (n, C); labels (n,); state_of_class (C,), from 1."""
    own, images, num_past = state_of_class[labels] - 1, np.arange(len(labels)), state_of_class[-1] - 1
    starts = np.searchsorted(state_of_class, np.arange(1, num_past + 2))
    best = np.maximum.reduceat(scores.astype(np.float64), starts, axis=1)  # (n, N), of each state's classes
    can_be_right = scores[images, labels] == best[images, own]
    shifts, most, before = np.zeros(len(starts)), -1, -2
    while most > before:
        before = most
        for moved in (slice(num_past), *(slice(state, state + 1) for state in range(num_past))):
            shifted, is_moved = best + shifts, np.zeros(len(starts), dtype=bool)
            is_moved[moved] = True
            ours, others = (shifted[:, which].max(axis=1) for which in (is_moved, ~is_moved))
            needed = others - ours  # the further shift from which on the moved states take an image
            leads = can_be_right & (shifted[images, own] == np.where(is_moved[own], ours, others))
            gained, lost, order = leads & is_moved[own], leads & ~is_moved[own], np.argsort(needed)
            right = np.cumsum(gained[order].astype(int) - lost[order]) + lost.sum()
            edges = np.append(needed[order], needed.max() + 2)
            right[edges[1:] == edges[:-1]] = -1  # no shift lies between the two
            place = right.argmax()
            if right[place] > most:
                most = right[place]
                shifts[moved] += edges[place : place + 2].mean()
    return shifts


@il2m.method(
    "state-shift-oracle", needs="val_labels", colour="#BDBDBD", dash=":", cost=lambda size: (size.states, size.linear)
)
def state_shifts(state: Frozen) -> np.ndarray:
    """One number added per past state, tuned on the validation images: bounds what such shifts can reach."""
    if not state.num_past:
        return state.scores
    whole = state.whole
    shifts = best_shifts(whole.scores, whole.val_labels, state.state_of_class)
    return state.scores + shifts[state.state_of_class - 1].astype(state.scores.dtype)
