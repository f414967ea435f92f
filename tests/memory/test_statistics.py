"""Second memory: class means, and what a state knows."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2m.memory.statistics import ClassStatistics, class_means


def test_class_means_by_hand():
    own_scores, labels = np.array([1.0, -2.0, 3.0, 5.0]), np.array([0, 2, 0, 2])
    np.testing.assert_array_equal(class_means(own_scores, labels, 4), [2.0, np.nan, 1.5, np.nan])


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-50, 50, width=32)), max_size=30))
def test_class_means_as_loops(images):
    labels = np.array([label for label, _ in images], dtype=np.int64)
    own_scores = np.array([score for _, score in images], dtype=np.float32)
    means = class_means(own_scores, labels, 5)
    assert means.dtype == np.float64
    for label in range(5):
        own = [float(score) for of, score in images if of == label]
        assert means[label] == pytest.approx(sum(own) / len(own)) if own else math.isnan(means[label])


def test_statistics_know_past_from_new_by_the_state_of_the_model():
    statistics = ClassStatistics(np.ones(4), np.ones(4), np.ones(3), np.array([1, 1, 2, 3]))
    assert statistics.state == 3
    np.testing.assert_array_equal(statistics.is_past, [True, True, True, False])


def test_statistics_are_frozen():
    statistics = ClassStatistics(np.ones(1), np.ones(1), np.ones(1), np.ones(1, dtype=int))
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.confidences = np.zeros(1)
