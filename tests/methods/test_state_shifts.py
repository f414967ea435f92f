"""The bound of shifts by state: a plugin beside the benchmarks."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny import PROJECT, TinyStudy

from il2m import METHODS
from il2m.methods.frozen import Frozen
from il2m.results.table import results_table
from il2m.system.plugins import load_plugin

STATE_OF_CLASS = np.array([1, 1, 2, 2, 3, 3, 3])


@pytest.fixture
def best_shifts():
    known = dict(METHODS)
    plugin = load_plugin(str(PROJECT / "benchmarks" / "plugins" / "state_shifts.py"))
    yield plugin.best_shifts
    METHODS.clear()
    METHODS.update(known)
    del sys.modules[plugin.__name__]


def num_right(scores, labels, states, shifts):
    """How many images are right once each state's classes got its shift, one image at a time."""
    right = 0
    for row, label in zip(scores, labels, strict=True):
        shifted = [score + shifts[state - 1] for score, state in zip(row, states, strict=True)]
        right += shifted.index(max(shifted)) == label
    return right


@pytest.mark.parametrize("seed", range(6))
def test_shifts_of_two_states_are_the_best_there_are(best_shifts, seed):
    rng = np.random.default_rng(seed)
    scores, labels, states = rng.normal(size=(30, 5)), rng.integers(0, 5, 30), np.array([1, 1, 1, 2, 2])
    shifts = best_shifts(scores, labels, states)
    gaps = np.sort(scores[:, 3:].max(axis=1) - scores[:, :3].max(axis=1))
    tried = [gaps[0] - 1, *(gaps[1:] + gaps[:-1]) / 2, gaps[-1] + 1]  # one between any two places where it matters
    assert shifts[1] == 0
    assert num_right(scores, labels, states, shifts) == max(num_right(scores, labels, states, [s, 0]) for s in tried)


@pytest.mark.parametrize("seed", range(3))
def test_no_single_further_shift_helps(best_shifts, seed):
    rng = np.random.default_rng(seed)
    scores, labels, states = rng.normal(size=(40, 7)), rng.integers(0, 7, 40), STATE_OF_CLASS
    shifts = best_shifts(scores, labels, states)
    most = num_right(scores, labels, states, shifts)
    assert most >= num_right(scores, labels, states, [0, 0, 0])
    for state in (0, 1):
        for shift in np.linspace(-6, 6, 241):
            assert num_right(scores, labels, states, [*shifts[:state], shift, *shifts[state + 1 :]]) <= most


@pytest.mark.usefixtures("best_shifts")
def test_the_bound_is_tuned_on_all_images_and_each_is_then_seen_by_itself(tiny_study: TinyStudy):
    state, bound = Frozen.of_run(tiny_study.off, 3), METHODS["state-shift-oracle"]
    assert_array_equal(bound(state)[5:9], bound(state.take(slice(5, 9))))
    assert_array_equal(bound(state)[:, 4:], state.scores[:, 4:])
    top1 = results_table(tiny_study.off, methods=("FT", "FT-th", bound.name)).query(
        "score_kind == 'raw' and state == 3"
    )
    assert top1.set_index("method")["top1"].idxmax() == bound.name, "thresholds are such shifts"
