"""Each method against the definition written as plain loops or worked by hand, and by its properties."""

import math

import numpy as np
import pytest
from frozen_states import frozen_state
from numpy.testing import assert_allclose, assert_array_equal

from il2m.methods.builtin import (
    correct_bias,
    fit_bias_correction,
    head_scores,
    keep_top_past,
    mean_directions,
    nearest_mean_scores,
    scale_initial_head,
)
from il2m.methods.frozen import Head
from il2m.methods.registry import METHODS

NUM_CLASSES, NUM_PAST, NUM_FEATURES = 7, 4, 5
STATE_OF_CLASS = np.array([1, 1, 2, 2, 3, 3, 3])


def corrected_by(method, scores, state_sizes=(2, 2, 3), **arrays):
    return METHODS[method](frozen_state(scores, state_sizes, **arrays))


def thresholded(scores, counts):
    per_class = np.split(np.repeat(np.arange(NUM_CLASSES), counts), [sum(counts[:NUM_PAST])])
    return corrected_by("FT-th", scores, exemplar_labels=per_class[0], new_labels=per_class[1])


def weights_used(method, head, *state_sizes):
    """The weights (C, d) that a method makes of a head: the scores of unit vectors, less the bias."""
    weight, bias = head
    num_classes, width = weight.shape
    arrays = {"val_features": np.eye(width), "head_weight": weight, "head_bias": bias}
    return (corrected_by(method, np.zeros((width, num_classes)), state_sizes, **arrays) - bias).T


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def head(rng):
    return Head(rng.normal(size=(NUM_CLASSES, NUM_FEATURES)), rng.normal(size=NUM_CLASSES))


@pytest.fixture
def features(rng):
    return rng.normal(size=(20, NUM_FEATURES))


@pytest.fixture
def scores(rng):
    return rng.normal(scale=3, size=(20, NUM_CLASSES))


def test_head_scores_agree_with_loops(features, head):
    weight, bias = head
    expected = [
        [sum(weight[c, k] * f[k] for k in range(NUM_FEATURES)) + bias[c] for c in range(NUM_CLASSES)] for f in features
    ]
    assert_allclose(head_scores(features, head), expected)


# prior thresholding


def test_prior_thresholding_ranks_as_probabilities_divided_by_the_prior(scores):
    counts = np.array([2, 2, 3, 3, 50, 40, 60])
    corrected = thresholded(scores, counts)
    for row, got in zip(scores, corrected, strict=True):
        exponentials = [math.exp(s) for s in row]
        divided = [e / sum(exponentials) / (n / counts.sum()) for e, n in zip(exponentials, counts, strict=True)]
        assert_array_equal(np.argsort(got), np.argsort(divided))
        assert_allclose(np.exp(got) / np.exp(got).sum(), np.array(divided) / sum(divided))


def test_equal_priors_change_nothing(scores):
    assert_array_equal(thresholded(scores, np.full(NUM_CLASSES, 9)), scores)


def test_prior_thresholding_keeps_the_dtype(scores):
    assert thresholded(scores.astype(np.float32), np.arange(1, NUM_CLASSES + 1)).dtype == np.float32


# nearest means


def test_mean_directions_agree_with_loops(features, rng):
    labels = np.repeat(np.arange(4), 5)
    directions = mean_directions(features, labels, 4)
    for c in range(4):
        mean = np.zeros(NUM_FEATURES)
        for f, label in zip(features, labels, strict=True):
            if label == c:
                mean += f / math.sqrt(sum(x * x for x in f)) / 5
        assert_allclose(directions[c], mean / math.sqrt(sum(x * x for x in mean)))


def test_a_class_without_images_has_no_direction(features):
    assert_array_equal(mean_directions(features, np.zeros(20, dtype=int), 2)[1], np.zeros(NUM_FEATURES))


def test_nearest_mean_scores_are_minus_the_distances(features, rng):
    directions = mean_directions(rng.normal(size=(9, NUM_FEATURES)), np.repeat([0, 1, 2], 3), 3)
    expected = [[-np.linalg.norm(f / np.linalg.norm(f) - m) for m in directions] for f in features]
    assert_allclose(nearest_mean_scores(features, directions), expected)


def test_nearest_mean_forgets_the_length_of_features(features, rng):
    directions = mean_directions(rng.normal(size=(9, NUM_FEATURES)), np.repeat([0, 1, 2], 3), 3)
    lengths = rng.uniform(0.1, 9, size=(20, 1))
    assert_allclose(
        nearest_mean_scores(features * lengths, directions), nearest_mean_scores(features, directions), atol=1e-7
    )


def test_a_feature_at_a_mean_has_distance_zero():
    directions = mean_directions(np.eye(3, dtype=np.float32), np.arange(3), 3)
    got = nearest_mean_scores(np.eye(3, dtype=np.float32) * 4, directions)
    assert_allclose(got, -np.sqrt(2) * (1 - np.eye(3)), atol=1e-6)
    assert got.dtype == np.float32


# weight alignment


def test_weight_alignment_of_a_hand_worked_case():
    weight, bias = np.array([[3.0, 4.0], [0.0, 7.0], [6.0, 8.0], [0.0, 2.0]]), np.arange(4.0)
    assert_allclose(weights_used("WA", (weight, bias), 2, 2), weight)  # mean norms: past (5 + 7) / 2, new (10 + 2) / 2
    weight[2:] *= 3
    aligned = weights_used("WA", (weight, bias), 2, 2)  # less the same biases
    assert_allclose(aligned[2:], weight[2:] / 3)
    assert_allclose(aligned[:2], weight[:2])


def test_weight_alignment_makes_the_mean_norms_equal_and_equal_norms_change_nothing(head):
    aligned = weights_used("WA", head, NUM_PAST, 3)
    norms = np.linalg.norm(aligned, axis=1)
    assert norms[:NUM_PAST].mean() == pytest.approx(norms[NUM_PAST:].mean())
    assert_allclose(weights_used("WA", (aligned, head.bias), NUM_PAST, 3), aligned)


# ScaIL


def loop_scail(initial, current, own, num_past):
    (w_initial, b_initial), (w_now, b_now) = initial, current

    def by_rank(weights):
        ordered = [sorted((abs(x) for x in w), reverse=True) for w in weights]
        return [sum(w[r] for w in ordered) / len(ordered) for r in range(NUM_FEATURES)]

    def spread(bias):
        length = math.sqrt(sum(b * b for b in bias))
        return sum(abs(b) / length for b in bias)

    before, now = by_rank(w_initial[own]), by_rank(w_now[num_past:])
    weights, biases = [], []
    for c in range(own.start, own.stop):
        by_size = sorted(range(NUM_FEATURES), key=lambda k: -abs(w_initial[c, k]))
        weights.append(
            [w_initial[c, k] * now[by_size.index(k)] / before[by_size.index(k)] for k in range(NUM_FEATURES)]
        )
        biases.append(b_initial[c] * spread(b_now) / spread(b_initial))
    return np.array(weights), np.array(biases)


def test_scail_agrees_with_loops(head, rng):
    initial = Head(rng.normal(size=(4, NUM_FEATURES)), rng.normal(size=4))
    own = slice(2, 4)
    expected = loop_scail(initial, head, own, NUM_PAST)
    for got, wanted in zip(scale_initial_head(initial, head, own, NUM_PAST), expected, strict=True):
        assert_allclose(got, wanted)


def test_scail_leaves_classes_alone_whose_weights_are_as_large_as_the_new_ones(head):
    weight, bias = scale_initial_head(head, head, slice(NUM_PAST, NUM_CLASSES), NUM_PAST)
    assert_allclose(weight, head[0][NUM_PAST:])
    assert_allclose(bias, head[1][NUM_PAST:])


def test_scail_gives_past_classes_the_new_ones_mean_weight_at_each_rank(head, rng):
    initial = Head(rng.normal(size=(4, NUM_FEATURES)) * 9, rng.normal(size=4))
    (weight,), _ = scale_initial_head(initial, head, slice(0, 1), NUM_PAST)  # one class: its rank means are its own
    new_by_size = np.sort(np.abs(head.weight[NUM_PAST:]), axis=1)
    assert_allclose(np.sort(np.abs(weight)), new_by_size.mean(axis=0))


def test_scail_of_weights_that_are_zero_stays_zero(head):
    initial = Head(np.zeros((4, NUM_FEATURES)), np.zeros(4))
    weight, bias = scale_initial_head(initial, head, slice(0, 4), NUM_PAST)
    assert_array_equal(weight, 0)
    assert_array_equal(bias, 0)


def test_only_the_top_past_classes_stay_in_play(scores):
    corrected = scores * 2 + 1
    got = keep_top_past(corrected, scores, NUM_PAST, kept=2)
    for row, before, after in zip(scores, corrected, got, strict=True):
        best = sorted(range(NUM_PAST), key=lambda c: -row[c])[:2]
        for c in range(NUM_CLASSES):
            assert after[c] == (before[c] if c in best or c >= NUM_PAST else -np.inf)


def test_few_past_classes_all_stay_in_play(scores):
    assert_array_equal(keep_top_past(scores, scores, NUM_PAST), scores)


# SIW


def test_standardised_weights_have_mean_0_and_deviation_1(head):
    weight = weights_used("SIW", head, NUM_CLASSES)
    for row, before in zip(weight, head[0], strict=True):
        mean = sum(before) / NUM_FEATURES
        deviation = math.sqrt(sum((x - mean) ** 2 for x in before) / NUM_FEATURES)
        assert_allclose(row, [(x - mean) / deviation for x in before])
    for same in (weight, head.weight * 5 - 2):
        assert_allclose(weights_used("SIW", (same, head.bias), NUM_CLASSES), weight)


def test_constant_weights_standardise_to_zero():
    assert_array_equal(weights_used("SIW", (np.full((2, 4), 2.5), np.zeros(2)), 2), np.zeros((2, 4)))


# bias correction


def mean_cross_entropy(scores, labels, alpha, beta):
    total = 0.0
    for row, label in zip(scores, labels, strict=True):
        corrected = [s if c < NUM_PAST else alpha * s + beta for c, s in enumerate(row)]
        total += math.log(sum(math.exp(s) for s in corrected)) - corrected[label]
    return total / len(labels)


def test_bias_correction_undoes_a_known_bias(rng):
    unbiased = rng.normal(scale=2, size=(20_000, NUM_CLASSES))
    labels = (unbiased + rng.gumbel(size=unbiased.shape)).argmax(axis=1)  # drawn from softmax(unbiased)
    biased = correct_bias(unbiased, NUM_PAST, alpha=1.6, beta=2.5)
    alpha, beta = fit_bias_correction(biased, labels, NUM_PAST)
    assert alpha == pytest.approx(1 / 1.6, rel=0.05)
    assert beta == pytest.approx(-2.5 / 1.6, abs=0.1)


def test_bias_correction_is_the_minimum_of_the_cross_entropy(scores, rng):
    labels = rng.integers(NUM_CLASSES, size=len(scores))
    alpha, beta = fit_bias_correction(scores, labels, NUM_PAST)
    best = mean_cross_entropy(scores, labels, alpha, beta)
    for step in (0.05, -0.05):
        assert mean_cross_entropy(scores, labels, alpha + step, beta) > best
        assert mean_cross_entropy(scores, labels, alpha, beta + step) > best
    assert best < mean_cross_entropy(scores, labels, 1, 0)


def test_bias_correction_of_separated_images_ends():
    scores = np.array([[9.0, 0.0], [0.0, 9.0]])
    alpha, beta = fit_bias_correction(scores, np.array([0, 1]), num_past=1)
    assert np.isfinite([alpha, beta]).all()
    assert_array_equal(correct_bias(scores, 1, alpha, beta).argmax(axis=1), [0, 1])


def test_correct_bias_changes_new_classes_only(scores):
    corrected = correct_bias(scores, NUM_PAST, alpha=0.5, beta=-1)
    assert_array_equal(corrected[:, :NUM_PAST], scores[:, :NUM_PAST])
    assert_allclose(corrected[:, NUM_PAST:], scores[:, NUM_PAST:] * 0.5 - 1)
    assert_array_equal(correct_bias(scores, NUM_PAST, alpha=1, beta=0), scores)


# task-aware bound


def test_only_classes_of_the_true_state_stay_in_play(scores):
    labels = np.arange(20) % NUM_CLASSES
    got = corrected_by("task-aware-oracle", scores, val_labels=labels)
    for i in range(20):
        for c in range(NUM_CLASSES):
            same = STATE_OF_CLASS[c] == STATE_OF_CLASS[labels[i]]
            assert got[i, c] == (scores[i, c] if same else -np.inf)


def test_no_shift_between_states_beats_the_task_aware_bound(rng):
    scores = rng.normal(size=(400, NUM_CLASSES))
    labels = rng.integers(NUM_CLASSES, size=400)
    bound = np.mean(corrected_by("task-aware-oracle", scores, val_labels=labels).argmax(axis=1) == labels)
    for _ in range(20):
        shift, scale = rng.normal(size=3)[STATE_OF_CLASS - 1], rng.uniform(0.1, 3, size=3)[STATE_OF_CLASS - 1]
        assert np.mean((scores * scale + shift).argmax(axis=1) == labels) <= bound


# all of them


def test_no_method_changes_its_inputs(scores, features, head):
    labels, given = np.arange(20) % NUM_CLASSES, {}
    given |= {"val_features": features, "val_labels": labels, "head_weight": head.weight, "head_bias": head.bias}
    given |= {"new_labels": labels[labels >= NUM_PAST], "exemplar_labels": labels[labels < NUM_PAST]}
    inputs = [scores, *given.values()]
    before = [array.copy() for array in inputs]
    for method in ("FT-th", "WA", "task-aware-oracle"):
        corrected_by(method, scores, **given)
    corrected_by("SIW", scores, (NUM_CLASSES,), val_features=features, head_weight=head.weight, head_bias=head.bias)
    nearest_mean_scores(features, mean_directions(features, labels, NUM_CLASSES))
    scale_initial_head(head, head, slice(0, 2), NUM_PAST)
    keep_top_past(scores, scores, NUM_PAST, kept=1)
    correct_bias(scores, NUM_PAST, *fit_bias_correction(scores, labels, NUM_PAST))
    head_scores(features, head)
    for array, copy in zip(inputs, before, strict=True):
        assert_array_equal(array, copy)


def test_without_past_classes_nothing_changes(scores, head):
    assert_allclose(weights_used("WA", head, NUM_CLASSES), head.weight)
    assert_array_equal(keep_top_past(scores, scores, 0), scores)
    alone = corrected_by("task-aware-oracle", scores, (NUM_CLASSES,), val_labels=np.zeros(20, dtype=int))
    assert_array_equal(alone, scores)
