"""Metrics of one state, and means over states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2m.errors import InputError
from il2m.results.metrics import (
    error_breakdown,
    mean_over_states,
    predictions,
    ranks,
    share_new,
    state_confusion,
    top_k,
)

# the authors' published run on ILSVRC, 10 states of 100 classes: accuracy by state, and the mean over states 2..10
PUBLISHED = {
    "fine-tuning top-1": ([0.7752, 0.6795, 0.5916, 0.5340, 0.4811, 0.4425, 0.4188, 0.3934, 0.3782, 0.3515], 0.4745),
    "fine-tuning top-5": ([0.9201, 0.8733, 0.8232, 0.7830, 0.7479, 0.7185, 0.7096, 0.6882, 0.6666, 0.6398], 0.7389),
    "IL2M top-1": ([0.7752, 0.7023, 0.6328, 0.5940, 0.5383, 0.5031, 0.4887, 0.4681, 0.4349, 0.4091], 0.5301),
    "IL2M top-5": ([0.9201, 0.8830, 0.8373, 0.8087, 0.7665, 0.7356, 0.7291, 0.7078, 0.6801, 0.6544], 0.7558),
}
LABELS = np.array([0, 1, 2, 3])
SCORES = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])


@pytest.mark.parametrize("series", PUBLISHED)
def test_means_of_the_published_run(series):
    values, mean = PUBLISHED[series]
    assert round(mean_over_states(np.array(values)), 4) == mean


def test_mean_over_states_by_hand():
    values = np.array([0.9, 0.5, 0.3])
    assert mean_over_states(values) == pytest.approx(0.4)
    assert mean_over_states(values, first=1) == pytest.approx(1.7 / 3)
    assert np.isnan(mean_over_states(values[:1]))


def test_ranks_and_top_k_by_hand():
    image_ranks = ranks(SCORES, LABELS)
    np.testing.assert_array_equal(image_ranks, [0, 1, 2, 3])
    assert [top_k(image_ranks, k) for k in (1, 2, 4)] == [0.25, 0.5, 1]


def test_top_k_of_more_than_there_are_classes():
    assert top_k(ranks(SCORES, LABELS), 5) == 1


def test_top_k_without_images():
    assert np.isnan(top_k(ranks(np.empty((0, 3)), np.empty(0, dtype=int)), 1))


def test_of_equal_scores_the_lower_label_comes_first():
    np.testing.assert_array_equal(ranks(np.zeros((4, 4)), LABELS), [0, 1, 2, 3])
    np.testing.assert_array_equal(predictions(np.zeros((4, 4))), [0, 0, 0, 0])


@st.composite
def scored_images(draw):
    """Whole-number scores in a narrow range, so that many are equal, and labels."""
    n, num_classes = draw(st.integers(1, 30)), draw(st.integers(1, 8))
    scores = draw(arrays(np.float32, (n, num_classes), elements=st.integers(-2, 2).map(float)))
    return scores, draw(arrays(np.int64, n, elements=st.integers(0, num_classes - 1)))


def ranks_by_loops(scores: np.ndarray, labels: np.ndarray) -> list[int]:
    order = np.argsort(-scores, axis=1, kind="stable")
    return [order[i].tolist().index(label) for i, label in enumerate(labels)]


@given(scored_images(), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_ranks_and_top_k_as_argsort_loops(case, k):
    scores, labels = case
    expected = ranks_by_loops(scores, labels)
    np.testing.assert_array_equal(ranks(scores, labels), expected)
    assert top_k(ranks(scores, labels), k) == pytest.approx(np.mean([rank < k for rank in expected]))
    np.testing.assert_array_equal(ranks(scores, labels) == 0, predictions(scores) == labels)


def test_ranks_of_more_images_than_one_block():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, (700, 6)).astype(float), rng.integers(0, 6, 700)
    np.testing.assert_array_equal(ranks(scores, labels), ranks_by_loops(scores, labels))


@pytest.mark.parametrize("column", [0, 1])
def test_scores_that_are_no_numbers(column):
    """Wherever the NaN stands: at the true class, or at another."""
    scores = np.tile([1.0, 2.0, 3.0], (300, 1))
    scores[299, column] = np.nan
    with pytest.raises(InputError, match="the scores of image 299 are not all numbers"):
        ranks(scores, np.zeros(300, dtype=int))


def test_scores_of_one_class_that_are_no_numbers():
    with pytest.raises(InputError, match="image 1 "):
        ranks(np.array([[1.0], [np.nan]]), np.zeros(2, dtype=int))


def test_infinite_scores_are_ranked():
    np.testing.assert_array_equal(ranks(np.array([[-np.inf, 1.0, np.inf]] * 3), np.arange(3)), [2, 1, 0])


def test_error_breakdown_by_hand():
    """2 past and 2 new classes; one image of each kind of error, and two right ones."""
    labels = np.array([0, 1, 2, 3, 0, 3])
    predicted = np.array([1, 2, 0, 2, 0, 3])
    sixth = pytest.approx(1 / 6)
    assert error_breakdown(predicted, labels, num_past=2) == {
        "past as past": sixth, "past as new": sixth, "new as past": sixth, "new as new": sixth
    }  # fmt: skip


@given(scored_images(), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_error_breakdown_adds_up_to_the_top_1_error(case, num_past):
    scores, labels = case
    parts = error_breakdown(predictions(scores), labels, num_past)
    assert sum(parts.values()) == pytest.approx(1 - top_k(ranks(scores, labels), 1))
    assert min(parts.values()) >= 0


def test_share_new():
    assert share_new(np.array([0, 1, 2, 3, 3]), num_past=2) == pytest.approx(0.6)
    assert share_new(np.array([0, 1]), num_past=2) == 0


def test_state_confusion_by_hand():
    """State 1 has classes 0 and 1, state 2 class 2, state 3 classes 3 and 4; no image of state 2."""
    state_of_class = np.array([1, 1, 2, 3, 3])
    labels = np.array([0, 0, 1, 1, 3, 4])
    predicted = np.array([1, 2, 4, 3, 3, 0])
    expected = [[0.25, 0.25, 0.5], [0, 0, 0], [0.5, 0, 0.5]]
    np.testing.assert_allclose(state_confusion(predicted, labels, state_of_class), expected)


@given(scored_images())
@settings(max_examples=50, deadline=None)
def test_state_confusion_as_loops(case):
    scores, labels = case
    state_of_class = np.arange(scores.shape[1]) // 2 + 1
    predicted = predictions(scores)
    confusion = state_confusion(predicted, labels, state_of_class)
    for i in range(state_of_class.max()):
        rows = [p for p, label in zip(predicted, labels, strict=True) if state_of_class[label] == i + 1]
        for j in range(state_of_class.max()):
            share = sum(state_of_class[p] == j + 1 for p in rows) / len(rows) if rows else 0
            assert confusion[i, j] == pytest.approx(share)


@pytest.mark.parametrize("labels", [[0, 1, 2, -1], [0, 1, 2, 4], [0, 1, 2], [0, 1, 2, 3, 3], [[0], [1], [2], [3]]])
def test_labels_of_other_classes_or_images_are_refused(labels):
    """-1 would be the last class, and of more labels than images some would be passed over."""
    with pytest.raises(InputError, match=r"labels don't fit scores \(4, 4\): expected one of 0\.\.3 per image"):
        ranks(SCORES, np.array(labels))
