"""First memory: how many images it keeps, and which."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2m.data.states import States, places_by_class
from il2m.errors import InputError
from il2m.memory.exemplars import (
    check_memory,
    held_out_places,
    herding_ranking,
    kept_per_class,
    num_held_out,
    rank_classes,
)
from il2m.parameters import FineTuning


def herding_by_loops(features: np.ndarray, num_kept: int) -> list[int]:
    """iCaRL's Alg. 4 as it is written: one exemplar after the other, every image tried."""
    unit = [row / max(np.sqrt((row**2).sum()), 1e-12) for row in features.astype(float)]
    mean = sum(unit) / len(unit)
    exemplars: list[int] = []
    for k in range(1, min(num_kept, len(unit)) + 1):
        best, best_distance = -1, np.inf
        for i in range(len(unit)):
            if i in exemplars:
                continue
            distance = np.sqrt(((mean - (unit[i] + sum(unit[j] for j in exemplars)) / k) ** 2).sum())
            if distance < best_distance:
                best, best_distance = i, distance
        exemplars.append(best)
    return exemplars


@pytest.mark.parametrize(
    ("memory_size", "per_class", "num_past", "floor", "ceil"),
    [
        (2000, 0, 10, 200, 200),
        (2000, 0, 30, 66, 67),
        (7, 0, 7, 1, 1),
        (7, 0, 8, 0, 1),
        (2000, 5, 30, 5, 5),
        (0, 5, 30, 5, 5),
        (0, 0, 30, 0, 0),
        (10**9, 0, 3, 333333333, 333333334),
    ],
)
def test_memory_is_shared_evenly(memory_size, per_class, num_past, floor, ceil):
    given = FineTuning(memory_size=memory_size, exemplars_per_class=per_class)
    kept = [kept_per_class(replace(given, memory_rounding=rounding), num_past) for rounding in ("floor", "ceil")]
    assert kept == [floor, ceil]


def test_the_authors_lists_hold_more_than_k_images():
    """S = 10, K = 50 on 50 classes: what their list maker keeps, which rounds up."""
    settings = FineTuning(memory_size=50)
    assert [n * kept_per_class(settings, n) for n in range(5, 50, 5)] == [50, 50, 60, 60, 50, 60, 70, 80, 90]


def test_memory_too_small_names_the_state_and_the_smallest_k():
    floor = FineTuning(memory_size=5, memory_rounding="floor")
    with pytest.raises(InputError) as error:
        check_memory(floor, States((2, 2, 2, 2)))
    message = str(error.value)
    assert "memory_size = 5 leaves less than one image per past class at state 4, which has 6 past classes" in message
    assert "the smallest memory_size that works for all 4 states is 6 with memory_rounding = floor" in message
    with pytest.raises(InputError, match=r"at state 2, which has 50 past classes; .* for all 3 states is 60"):
        check_memory(replace(floor, memory_size=40), States((50, 10, 10)))


def test_memory_that_suffices():
    floor = FineTuning(memory_size=6, memory_rounding="floor")
    check_memory(floor, States((2, 2, 2, 2)))
    check_memory(FineTuning(memory_size=1), States((2, 2, 2, 2)))
    check_memory(replace(floor, memory_size=0, exemplars_per_class=1), States((2, 2, 2, 2)))
    check_memory(replace(floor, memory_size=0), States((2, 2, 2, 2)))
    check_memory(replace(floor, memory_size=0), States((8,)))


def test_no_memory_has_no_balanced_stage():
    with pytest.raises(InputError, match="balanced_epochs needs images per class, and memory_size = 0 keeps none"):
        check_memory(FineTuning(memory_size=0, balanced_epochs=2), States((2, 2)))


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 5)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=st.floats(-3, 3, width=32).map(lambda x: round(x, 2)))
    ),
    st.integers(1, 15),
)
@settings(max_examples=60, deadline=None)
def test_herding_brings_the_mean_as_close_as_the_loop_does(features, num_kept):
    """Equally good picks may differ by rounding, so distances are compared: pick by pick."""
    picks = herding_ranking(features, num_kept)
    assert len(picks) == len(set(picks.tolist())) == min(num_kept, len(features))
    unit = features.astype(float) / np.maximum(np.linalg.norm(features.astype(float), axis=1, keepdims=True), 1e-12)
    for k in range(1, len(picks) + 1):
        taken = picks[: k - 1]
        distances = {
            i: np.linalg.norm(unit.mean(axis=0) - (unit[taken].sum(axis=0) + unit[i]) / k)
            for i in range(len(unit))
            if i not in taken
        }
        assert distances[picks[k - 1]] <= min(distances.values()) + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_herding_picks_what_the_loop_picks(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(1, 1, (30, 8)).astype(np.float32)
    before = features.copy()
    assert herding_ranking(features, 12).tolist() == herding_by_loops(features, 12)
    np.testing.assert_array_equal(features, before)


def test_herding_by_hand():
    """Directions of 40, 0 and -50 degrees have their mean at (.80, -.04): 0 is nearest. With it, -50 makes (.82, -.38),
    off by .34, and 40 makes (.88, .32), off by .37. Lengths have no say."""
    angles = np.deg2rad([40.0, 0.0, -50.0])
    features = np.array([[1.0], [5.0], [0.2]]) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert herding_ranking(features, 3).tolist() == [1, 2, 0]


def test_herding_keeps_a_prefix_when_fewer_are_kept():
    features = np.random.default_rng(0).normal(size=(20, 4))
    long = herding_ranking(features, 20)
    for kept in (1, 7, 13):
        np.testing.assert_array_equal(herding_ranking(features, kept), long[:kept])


def test_a_random_ranking_is_a_permutation_that_follows_its_seed():
    first, again = (rank_classes("random", None, np.zeros(50, dtype=int), 50, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([4, 2, 4, 2, 2, 4, 4])


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(7, 3))


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_classes_are_ranked_on_their_own(selection, features, labels):
    ranking = rank_classes(selection, features, labels, num_kept=3, seed=0)
    assert list(ranking) == [2, 4]
    for label, positions in ranking.items():
        assert len(set(positions.tolist())) == 3
        assert (labels[positions] == label).all()
        alone = rank_classes(selection, features[labels == label], labels[labels == label], num_kept=3, seed=0)
        np.testing.assert_array_equal(np.flatnonzero(labels == label)[alone[label]], positions)


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_ranking_and_prefixes_are_those_of_a_search_for_each_class(labels, num_kept, seed):
    labels = np.array(labels, dtype=np.int64)
    ranking, places = rank_classes("random", None, labels, num_kept, seed), places_by_class(labels)
    assert list(ranking) == list(places) == sorted(set(labels.tolist()))
    for label in ranking:
        found = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, label]).permutation(len(found))[:num_kept]
        np.testing.assert_array_equal(ranking[label], found[order])
        np.testing.assert_array_equal(places[label], found)


def test_herding_by_class_is_herding_of_its_images(features, labels):
    ranking = rank_classes("herding", features, labels, num_kept=2, seed=0)
    for label in (2, 4):
        own = np.flatnonzero(labels == label)
        np.testing.assert_array_equal(ranking[label], own[herding_by_loops(features[own], 2)])


def test_random_choice_follows_the_seed_and_shrinks_by_prefix():
    labels = np.repeat([0, 1], 40)
    ranking = rank_classes("random", np.empty((80, 0)), labels, num_kept=40, seed=0)
    fewer = rank_classes("random", np.empty((80, 0)), labels, num_kept=5, seed=0)
    other = rank_classes("random", np.empty((80, 0)), labels, num_kept=40, seed=1)
    for label in (0, 1):
        np.testing.assert_array_equal(fewer[label], ranking[label][:5])
        assert not np.array_equal(other[label], ranking[label])
    assert not np.array_equal(ranking[0], ranking[1] - 40), "each class has an order of its own"


def test_more_kept_than_there_are(features, labels):
    assert len(herding_ranking(features, 100)) == 7
    assert {len(p) for p in rank_classes("random", features, labels, 100, seed=0).values()} == {3, 4}


@pytest.mark.parametrize(
    ("num_ranked", "share", "held_out"),
    [(0, 0.1, 0), (9, 0.1, 0), (10, 0.1, 1), (100, 0.29, 29), (100, 0.57, 57), (50, 0.58, 29), (99, 0.29, 28)],
)
def test_held_out_is_the_whole_part_of_the_share(num_ranked, share, held_out):
    """Of the exact share: 0.29 * 100 comes out as 28.999999999999996."""
    assert num_held_out(np.array(num_ranked), share) == held_out
    assert len(held_out_places(num_ranked, share)) == held_out


def test_what_is_held_out_stays_so_as_the_memory_shrinks():
    places = held_out_places(100, 0.29)
    for kept in range(101):
        assert (places < kept).sum() == len(held_out_places(kept, 0.29)) == 29 * kept // 100
