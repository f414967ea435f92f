"""Eq. 1: against the equation written as plain loops, and by its properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from il2m.data.states import States
from il2m.errors import InputError
from il2m.memory.statistics import ClassStatistics
from il2m.methods.rectify import PARTS, STEADIER, count_undefined, rectification_factors, rectify

SWITCHES = [{"gate": g, "use_means": m, "use_confidence": c} for g in (0, 1) for m in (0, 1) for c in (0, 1)]
POSITIVE = st.floats(0.125, 8)
ANY_MEAN = st.one_of(POSITIVE, st.sampled_from([float("nan"), -2.5, 0.0]))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def eq_1_by_loops(scores, statistics, *, gate=True, use_means=True, use_confidence=True, undefined="keep"):
    """The paper's Eq. 1, one image and one class at a time. Returns nested lists."""
    current = len(statistics.confidences)
    rectified = []
    for row in scores.tolist():
        top = max(range(len(row)), key=row.__getitem__)
        new_row = []
        for i, score in enumerate(row):
            state = int(statistics.state_of_class[i])
            factor, defined = 1.0, True
            pairs = []
            if use_means:
                pairs.append((statistics.initial_means[i], statistics.current_means[i]))
            if use_confidence:
                pairs.append((statistics.confidences[current - 1], statistics.confidences[state - 1]))
            for numerator, denominator in pairs:
                if denominator == 0 or math.isnan(numerator) or math.isnan(denominator):
                    defined = False
                else:
                    factor *= numerator / denominator
                if undefined == "keep" and (numerator <= 0 or denominator <= 0):
                    defined = False
            is_past = state < current
            top_is_new = statistics.state_of_class[top] == current
            applies = is_past and defined and (top_is_new or not gate)
            new_row.append(score * factor if applies else score)
        rectified.append(new_row)
    return rectified


@st.composite
def rectifications(draw, means=POSITIVE):
    """Scores (n, C), and statistics of 1 to 4 states of 1 to 3 classes."""
    states = States(tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))))
    num_classes, num_past = states.num_classes, states.num_past(states.num_states)
    initial = np.array(draw(st.lists(means, min_size=num_classes, max_size=num_classes)))
    current = initial.copy()
    current[:num_past] = draw(st.lists(means, min_size=num_past, max_size=num_past))
    confidences = np.array(draw(st.lists(means, min_size=states.num_states, max_size=states.num_states)))
    shape = (draw(st.integers(0, 6)), num_classes)
    scores = draw(arrays(np.float64, shape, elements=st.floats(-20, 20)))
    return scores, ClassStatistics(initial, current, confidences, states.of_class)


def by_hand() -> tuple[np.ndarray, ClassStatistics]:
    """State 3 of 3: classes 0 and 1 came in state 1, class 2 in state 2, class 3 is new."""
    statistics = ClassStatistics(
        initial_means=np.array([6.0, 8.0, 5.0, 4.0]),
        current_means=np.array([3.0, 2.0, 4.0, 4.0]),
        confidences=np.array([10.0, 8.0, 5.0]),
        state_of_class=np.array([1, 1, 2, 3]),
    )
    scores = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 2.0, 3.0, 4.0]])
    return scores, statistics


def test_by_hand():
    scores, statistics = by_hand()
    # factors: 6/3 * 5/10 = 1; 8/2 * 5/10 = 2; 5/4 * 5/8 = .78125; the second image is predicted past
    np.testing.assert_allclose(rectify(scores, statistics), [[1, 4, 2.34375, 4], [5, 2, 3, 4]])
    np.testing.assert_allclose(rectify(scores, statistics, gate=False), [[1, 4, 2.34375, 4], [5, 4, 2.34375, 4]])
    np.testing.assert_allclose(rectify(scores, statistics, use_confidence=False)[0], [2, 8, 3.75, 4])
    np.testing.assert_allclose(rectify(scores, statistics, use_means=False)[0], [0.5, 1, 1.875, 4])


@given(rectifications(means=ANY_MEAN), st.sampled_from(SWITCHES), st.sampled_from(["keep", "as-published"]))
@settings(max_examples=200, deadline=None)
def test_equation_as_loops(case, switches, undefined):
    scores, statistics = case
    expected = eq_1_by_loops(scores, statistics, undefined=undefined, **switches)
    rectified = rectify(scores, statistics, undefined=undefined, **switches)
    np.testing.assert_allclose(rectified, np.reshape(expected, scores.shape), rtol=1e-12, atol=1e-12)


@given(rectifications())
@settings(max_examples=50, deadline=None)
def test_equation_as_loops_after_softmax(case):
    scores, statistics = case
    probabilities = softmax(scores, axis=1) if scores.size else scores
    expected = np.reshape(eq_1_by_loops(probabilities, statistics), scores.shape)
    np.testing.assert_allclose(rectify(probabilities, statistics), expected, rtol=1e-12, atol=1e-12)


def test_many_images_are_rectified_as_few_are(rng):
    """More images than one block holds: the loops again, on float32 scores."""
    _, statistics = by_hand()
    scores = rng.normal(0, 5, (600, 4)).astype(np.float32)
    rectified = rectify(scores, statistics)
    assert rectified.dtype == np.float32
    np.testing.assert_allclose(rectified, eq_1_by_loops(scores, statistics), rtol=1e-6)


@given(rectifications(), st.sampled_from(SWITCHES))
@settings(max_examples=50, deadline=None)
def test_unit_ratios_change_nothing(case, switches):
    scores, statistics = case
    unit = ClassStatistics(
        initial_means=statistics.initial_means,
        current_means=statistics.initial_means,
        confidences=np.full_like(statistics.confidences, 7.5),
        state_of_class=statistics.state_of_class,
    )
    np.testing.assert_array_equal(rectify(scores, unit, **switches), scores)


@given(rectifications(means=ANY_MEAN), st.sampled_from(["keep", "as-published"]))
@settings(max_examples=100, deadline=None)
def test_rows_predicted_past_stay_and_new_columns_stay(case, undefined):
    scores, statistics = case
    rectified = rectify(scores, statistics, undefined=undefined)
    predicted_past = statistics.is_past[scores.argmax(axis=1)]
    np.testing.assert_array_equal(rectified[predicted_past], scores[predicted_past])
    np.testing.assert_array_equal(rectified[:, ~statistics.is_past], scores[:, ~statistics.is_past])
    ungated = rectify(scores, statistics, undefined=undefined, gate=False)
    np.testing.assert_array_equal(ungated[:, ~statistics.is_past], scores[:, ~statistics.is_past])
    np.testing.assert_array_equal(ungated[~predicted_past], rectified[~predicted_past])


@given(rectifications(means=ANY_MEAN), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_an_image_does_not_depend_on_the_others(case, random):
    scores, statistics = case
    rectified = rectify(scores, statistics)
    for i in range(len(scores)):
        np.testing.assert_array_equal(rectify(scores[i : i + 1], statistics)[0], rectified[i])
    order = random.sample(range(len(scores)), len(scores))
    np.testing.assert_array_equal(rectify(scores[order], statistics), rectified[order])


@given(rectifications(means=ANY_MEAN), st.sampled_from(SWITCHES), st.sampled_from(["keep", "as-published"]))
@settings(max_examples=50, deadline=None)
def test_inputs_are_never_changed(case, switches, undefined):
    scores, statistics = case
    before = [array.copy() for array in (scores, *vars(statistics).values())]
    rectified = rectify(scores, statistics, undefined=undefined, **switches)
    assert not np.shares_memory(rectified, scores)
    for array, copy in zip((scores, *vars(statistics).values()), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@given(rectifications())
@settings(max_examples=50, deadline=None)
def test_factors_are_separable_and_compose(case):
    scores, statistics = case
    means = rectification_factors(statistics, use_confidence=False).values
    confidence = rectification_factors(statistics, use_means=False).values
    both = rectification_factors(statistics).values
    np.testing.assert_allclose(means * confidence, both, rtol=1e-12)
    step_by_step = rectify(rectify(scores, statistics, gate=False, use_confidence=False), statistics,
                           gate=False, use_means=False)  # fmt: skip
    np.testing.assert_allclose(step_by_step, rectify(scores, statistics, gate=False), rtol=1e-12, atol=1e-12)
    neither = rectify(scores, statistics, use_means=False, use_confidence=False)
    np.testing.assert_array_equal(neither, scores)


def test_methods_by_name():
    scores, statistics = by_hand()
    expected = {
        "FT": scores,
        "IL2M": [[1, 4, 2.34375, 4], [5, 2, 3, 4]],
        "IL2M-no-gate": [[1, 4, 2.34375, 4], [5, 4, 2.34375, 4]],
        "IL2M-means": [[2, 8, 3.75, 4], [5, 2, 3, 4]],
        "IL2M-confidence": [[0.5, 1, 1.875, 4], [5, 2, 3, 4]],
    }
    assert PARTS.keys() == expected.keys()
    for method, switches in PARTS.items():
        np.testing.assert_allclose(rectify(scores, statistics, **switches), expected[method], err_msg=method)


def test_steadier_rectifications_by_hand():
    scores, statistics = by_hand()
    # state 1: 7 / 2.5 * 5 / 10 = 1.4; state 2: 5 / 4 * 5 / 8 < 1; all past classes: 19 / 9 times the confidences'
    expected = {
        "IL2M-pooled": [[1.4, 2.8, 3, 4], [5, 2, 3, 4]],
        "IL2M-global": [[19 / 18, 19 / 9, 3 * 95 / 72, 4], [5, 2, 3, 4]],
    }
    assert STEADIER.keys() == expected.keys()
    for method, switches in STEADIER.items():
        np.testing.assert_allclose(rectify(scores, statistics, **switches), expected[method], err_msg=method)


def pooled_by_loops(statistics, *, pooling, clip=None):
    """Factor of each class, None where it is undefined, one class at a time."""
    current, factors = len(statistics.confidences), []
    for own in statistics.state_of_class.tolist():
        if own == current:
            factors.append(1.0)
            continue
        pool = [i for i, state in enumerate(statistics.state_of_class) if state < current]
        pool = [i for i in pool if pooling == "past" or statistics.state_of_class[i] == own]
        parts = [
            sum(means[i] for i in pool) / len(pool) for means in (statistics.initial_means, statistics.current_means)
        ]
        parts += [statistics.confidences[current - 1], statistics.confidences[own - 1]]
        factor = parts[0] / parts[1] * parts[2] / parts[3] if all(part > 0 for part in parts) else None
        factors.append(factor if factor is None or clip is None else min(max(factor, clip[0]), clip[1]))
    return factors


@given(rectifications(ANY_MEAN))
@settings(max_examples=200, deadline=None)
def test_pooled_ratios_as_loops(case):
    _, statistics = case
    for switches in STEADIER.values():
        expected = pooled_by_loops(statistics, **switches)
        found = rectification_factors(statistics, **switches)
        assert [factor is None for factor in expected] == found.undefined.tolist()
        np.testing.assert_allclose(found.values, [1.0 if factor is None else factor for factor in expected], rtol=1e-12)


@given(rectifications())
@settings(max_examples=50, deadline=None)
def test_pooling_over_states_of_one_class_is_the_papers(case):
    _, statistics = case
    single = replace(statistics, state_of_class=np.arange(1, len(statistics.initial_means) + 1),
                     confidences=np.resize(statistics.confidences, len(statistics.initial_means)))  # fmt: skip
    np.testing.assert_allclose(
        rectification_factors(single, pooling="state").values, rectification_factors(single).values, rtol=1e-12
    )


def undefined_statistics(defect: float, where: str) -> ClassStatistics:
    """Those of by_hand with one value replaced: of class 1, or of state 1, where classes 0 and 1 were new."""
    _, statistics = by_hand()
    values = {name: array.copy() for name, array in vars(statistics).items()}
    values[where][0 if where == "confidences" else 1] = defect
    return ClassStatistics(**values)


@pytest.mark.parametrize("defect", [-2.0, 0.0, float("nan")])
@pytest.mark.parametrize(
    ("where", "affected"), [("initial_means", [1]), ("current_means", [1]), ("confidences", [0, 1])]
)
def test_undefined_statistics(defect, where, affected):
    scores, _ = by_hand()
    statistics = undefined_statistics(defect, where)
    whole = np.array([1.0, 2.0, 0.78125, 1.0])  # the factors by hand, without the defect

    kept = rectification_factors(statistics)
    np.testing.assert_array_equal(np.flatnonzero(kept.undefined), affected)
    np.testing.assert_allclose(kept.values, np.where(kept.undefined, 1, whole))
    np.testing.assert_array_equal(rectify(scores, statistics)[:, affected], scores[:, affected])

    published = rectification_factors(statistics, undefined="as-published")
    np.testing.assert_array_equal(published.undefined, kept.undefined)
    original = {"initial_means": 8.0, "current_means": 2.0, "confidences": 10.0}[where]
    if math.isnan(defect) or (defect == 0 and where != "initial_means"):  # not finite: even the script's way is shut
        expected = np.where(published.undefined, 1, whole)
    else:
        change = defect / original if where == "initial_means" else original / defect
        expected = np.where(published.undefined, whole * change, whole)
    np.testing.assert_allclose(published.values, expected)

    with pytest.raises(InputError) as error:
        rectify(scores, statistics, undefined="raise")
    assert f"state 3: the rectification of class(es) {affected} is undefined" in str(error.value)
    assert "'keep' or 'as-published'" in str(error.value)


def test_current_state_without_confidence_leaves_every_past_class_alone():
    scores, statistics = by_hand()
    statistics.confidences[-1] = -1.0
    np.testing.assert_array_equal(rectify(scores, statistics), scores)
    np.testing.assert_array_equal(rectification_factors(statistics).undefined, [True, True, True, False])


def test_a_factor_that_is_off_can_not_be_undefined():
    statistics = undefined_statistics(-2.0, "current_means")
    factors = rectification_factors(statistics, use_means=False, undefined="raise")
    assert not factors.undefined.any()
    np.testing.assert_allclose(factors.values, [0.5, 0.5, 0.625, 1])


def test_first_state_has_nothing_to_rectify(rng):
    statistics = ClassStatistics(np.ones(3), np.ones(3), np.ones(1), np.ones(3, dtype=int))
    scores = rng.normal(size=(5, 3))
    np.testing.assert_array_equal(rectify(scores, statistics, gate=False, undefined="raise"), scores)


@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (4,)])
def test_scores_of_other_classes_than_the_statistics(shape):
    with pytest.raises(InputError, match=r"scores of shape \(.*\) do not fit statistics of 4 classes"):
        rectify(np.zeros(shape), by_hand()[1])


def test_whole_number_scores_are_not_cut_to_whole_numbers():
    scores, statistics = by_hand()
    np.testing.assert_allclose(rectify(scores.astype(int), statistics), rectify(scores, statistics))


def test_halves_do_not_overflow():
    """As a network in half precision gives them: beyond its range they would all be infinite, and equal."""
    scores, memory = [[300.0, 310.0, 400.0, 0.0]], ([400, 400, 5, 5], [1.5, 1.5], [6, 6], [2, 2])
    expected = rectify(np.array(scores, dtype=np.float32), *memory)
    for half in (np.array(scores, dtype=np.float16), torch.tensor(scores, dtype=torch.half)):
        np.testing.assert_array_equal(rectify(half, *memory), expected)
    assert expected[0, 1] > 80_000
    means = np.array([0.9, 0.9, 0.5, 0.5], dtype=np.float16), np.array([1e-6, 1e-6], dtype=np.float16)
    assert np.isfinite(rectify(scores, *means, [6, 6], [2, 2])).all()


def test_a_memory_that_lacks_parts_is_named():
    with pytest.raises(TypeError, match="missing 3 required positional arguments"):
        rectify([[1.0, 2.0]], [1.0, 2.0])


def test_lists_are_scores_as_arrays_are():
    scores, statistics = by_hand()
    np.testing.assert_array_equal(rectify(scores.tolist(), statistics), rectify(scores, statistics))


@pytest.mark.parametrize(
    "scores", [[["1", "2", "3", "4"]], None, [[None] * 4], np.ones((2, 4), dtype=complex), np.ones((2, 4), dtype=bool)]
)
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(InputError, match=r"(?s)scores: .*: expected an array of numbers, or a tensor or lists of one"):
        rectify(scores, by_hand()[1])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"use_mean": False}, r"unknown parameter 'use_mean': did you mean 'use_means'\?"),
        ({"use_means": "no"}, r"use_means = 'no': expected True or False"),
        ({"use_confidence": None}, r"use_confidence = None: expected True or False"),
        ({"gate": "off"}, r"gate = 'off': expected True or False"),
        ({"pooling": "states"}, r"pooling = 'states': expected one of .*; did you mean 'state'\?"),
        ({"clip": (3, 1)}, r"clip = \(3, 1\): expected the least and the largest factor"),
        ({"clip": 3}, r"clip = 3: expected the least and the largest factor"),
        ({"clip": ("a", "b")}, r"clip = \('a', 'b'\): expected the least and the largest factor"),
    ],
)
def test_choices_of_a_rectification_are_checked(choice, message):
    scores, statistics = by_hand()
    with pytest.raises(InputError, match=message):
        rectify(scores, statistics, **choice)


def test_undefined_ratios_are_counted_of_methods_that_have_some():
    with pytest.raises(InputError, match=r"method = 'IL2m': expected one of IL2M, .*; did you mean 'IL2M'\?"):
        count_undefined(by_hand()[1], "IL2m")
