"""A frozen state from arrays, to try methods on cases worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from il2m.data.states import States
from il2m.memory.statistics import reduce_scores, state_statistics
from il2m.methods.frozen import Frozen, _read_only
from il2m.parameters import FineTuning


def frozen_state(
    val_scores: np.ndarray, state_sizes: Sequence[int], *, earlier: Sequence[Frozen] = (), **arrays: np.ndarray
) -> Frozen:
    """val_scores: (n, C) raw scores of all classes so far. state_sizes: classes of each state, up to this one. arrays:
    those that a run would store, by name, with ``new_scores`` in place of what is made of them."""
    states = States(tuple(state_sizes))
    reduced = []
    for group in ("new", "exemplar"):
        labels, scores = arrays.get(f"{group}_labels"), arrays.get(f"{group}_scores")
        reduced += [{} if labels is None or scores is None else reduce_scores(scores, labels), labels]
    memory = state_statistics(*reduced, states.num_past(states.num_states), states.num_classes)
    readers = {name: partial(_read_only, array) for name, array in {"val_scores": val_scores, **arrays}.items()}
    return Frozen(states.num_states, states, FineTuning(), tuple(earlier), _arrays=readers, _memory=memory)
