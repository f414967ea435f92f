"""Metrics that follow classes over states, calibration, rank changes and the gap to joint training."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from il2m.results.metrics import accuracy_matrix, backward_transfer, forgetting, mean_gap, rank_changes

NAN = float("nan")


def test_accuracy_matrix_of_a_hand_worked_case():
    hits = [np.array([True, False]), np.array([True, True, False, False, True]), np.array([False, True])]
    class_states = [np.array([1, 1]), np.array([1, 1, 1, 2, 2]), np.array([1, 3])]
    # at state 3 no image of state 2 was evaluated
    assert_allclose(accuracy_matrix(hits, class_states), [[0.5, 2 / 3, 0.0], [NAN, 0.5, NAN], [NAN, NAN, 1.0]])


def test_forgetting_takes_the_best_so_far_not_the_first():
    matrix = np.array([[0.8, 0.9, 0.5, 0.6], [NAN, 0.7, 0.4, 0.5], [NAN, NAN, 0.6, 0.7], [NAN, NAN, NAN, 0.9]])
    expected = [
        NAN,
        0.8 - 0.9,  # gained
        ((0.9 - 0.5) + (0.7 - 0.4)) / 2,
        ((0.9 - 0.6) + (0.7 - 0.5) + (0.6 - 0.7)) / 3,
    ]
    assert_allclose(forgetting(matrix), expected)


def test_backward_transfer_is_against_the_first_accuracy():
    matrix = np.array([[0.8, 0.9, 0.5], [NAN, 0.7, 0.4], [NAN, NAN, 0.6]])
    assert_allclose(backward_transfer(matrix), [NAN, 0.1, (0.5 - 0.8 + 0.4 - 0.7) / 2])


def test_the_surveys_gap_by_hand():
    """Two configurations: (.6 - .8) / (1 - .8) = -1 and (.8 - .75) / .25 = .2."""
    assert mean_gap([0.6, 0.8], [0.8, 0.75]) == pytest.approx(-0.4)


def test_forgetting_of_one_state_is_not_a_number():
    assert np.isnan(forgetting(np.array([[0.5]]))).all()


def test_rank_changes_of_a_hand_worked_case():
    before, after = np.array([0, 0, 3, 1, 2]), np.array([0, 1, 0, 2, 2])
    assert rank_changes(before, after) == {"corrected": 0.2, "broken": 0.2, "moved up": 0.2, "moved down": 0.4}
    assert rank_changes(before, before) == {"corrected": 0, "broken": 0, "moved up": 0, "moved down": 0}
    assert np.isnan(list(rank_changes(before[:0], after[:0]).values())).all()


def test_top1_changes_by_what_is_corrected_less_what_is_broken():
    rng = np.random.default_rng(0)
    before, after = rng.integers(4, size=(2, 500))
    changes = rank_changes(before, after)
    assert changes["corrected"] - changes["broken"] == pytest.approx(np.mean(after == 0) - np.mean(before == 0))


def test_the_gap_by_state_of_a_hand_worked_case():
    assert mean_gap([0.5, 0.6], [0.75, 0.8]) == pytest.approx(((-0.25 / 0.25) + (-0.2 / 0.2)) / 2)
    assert mean_gap([0.75, 0.8], [0.75, 0.8]) == 0
    assert mean_gap([0.8], [0.75]) > 0


def test_a_gap_is_not_a_number_without_a_joint_error_or_a_state():
    assert np.isnan(mean_gap([0.5, 0.5], [1.0, 0.8]))
    assert np.isnan(mean_gap([0.8], [1.0]))  # of top-5, as of five classes or fewer
    assert np.isnan(mean_gap([], []))
