"""Class order and states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2m.data.states import States, make_class_order, make_states
from il2m.errors import InputError


def test_equal_states():
    assert make_states(10, 5).sizes == (2, 2, 2, 2, 2)
    assert make_states(7, 1).sizes == (7,)
    assert make_states(3, 3).sizes == (1, 1, 1)


def test_unequal_states_by_hand():
    states = make_states(6, 99, [3, 1, 2])  # the sizes say it all: num_states is then not read
    assert (states.num_states, states.num_classes) == (3, 6)
    assert [states.num_seen(b) for b in (1, 2, 3)] == [3, 4, 6]
    assert [states.num_past(b) for b in (1, 2, 3)] == [0, 3, 4]
    assert [list(states.new_classes(b)) for b in (1, 2, 3)] == [[0, 1, 2], [3], [4, 5]]
    np.testing.assert_array_equal(states.of_class, [1, 1, 1, 2, 3, 3])


def test_half_then_ten_times_five():
    states = make_states(100, 11, [50] + [5] * 10)
    assert states.num_seen(1) == 50
    assert states.num_past(11) == 95
    np.testing.assert_array_equal(np.bincount(states.of_class)[1:], states.sizes)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_states_partition_the_classes(sizes):
    states = States(tuple(sizes))
    learned = [label for b in range(1, states.num_states + 1) for label in states.new_classes(b)]
    assert learned == list(range(states.num_classes))
    for b in range(1, states.num_states + 1):
        assert states.num_past(b) + len(states.new_classes(b)) == states.num_seen(b)
        assert all(states.of_class[label] == b for label in states.new_classes(b))


@pytest.mark.parametrize("num_states", [4, 51])
def test_states_that_do_not_divide_the_classes(num_states):
    with pytest.raises(InputError) as error:
        make_states(50, num_states)
    message = str(error.value)
    assert f"num_states = {num_states}" in message
    assert "50 classes" in message
    assert "[1, 2, 5, 10, 25, 50]" in message
    assert "state_sizes" in message


def test_state_sizes_that_do_not_add_up():
    with pytest.raises(InputError, match=r"state_sizes = \[3, 2\] add up to 5 classes, but the dataset has 6"):
        make_states(6, 2, [3, 2])


@pytest.mark.parametrize("sizes", [[0, 6], [-1, 7]])
def test_states_without_classes_are_refused(sizes):
    with pytest.raises(InputError, match="give sizes of at least 1 that add up to 6"):
        make_states(6, 2, sizes)
    with pytest.raises(InputError, match=rf"num_states = {sizes[0]} does not divide the dataset's 6 classes"):
        make_states(6, sizes[0])


def test_class_order_follows_its_seed():
    order = make_class_order(50, 3)
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    np.testing.assert_array_equal(order, make_class_order(50, 3))
    assert not np.array_equal(order, make_class_order(50, 4))


def test_class_order_given_is_taken():
    np.testing.assert_array_equal(make_class_order(4, 3, [2, 0, 3, 1]), [2, 0, 3, 1])


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ([0, 1, 2], "it has 3 entries, 3 of them different; missing: [3]"),
        ([0, 1, 2, 2], "it has 4 entries, 3 of them different; missing: [3]"),
        ([0, 1, 2, 4], "it has 4 entries, 4 of them different; missing: [3]"),
        ([0, 1, 2, 3, 3], "it has 5 entries, 4 of them different."),
        ([0.9, 1.7, 2.2, 3], "it has 4 entries, 4 of them different; missing: [0, 1, 2]"),
        ([10**20, 1, 2, 3], "it has 4 entries, 4 of them different; missing: [0]"),
    ],
)
def test_class_order_that_is_no_permutation(order, found):
    with pytest.raises(InputError) as error:
        make_class_order(4, 0, order)
    assert "class_order must name each of the classes 0..3 once" in str(error.value)
    assert found in str(error.value)


def test_the_order_of_icarl_has_a_name_and_is_no_seed_of_ours():
    order = make_class_order(100, 0, "icarl-1993").tolist()
    assert order[:5] == [68, 56, 78, 8, 23]
    shuffled = np.arange(100)
    np.random.RandomState(1993).shuffle(shuffled)
    assert order == shuffled.tolist()
    assert make_class_order(100, 1993).tolist()[:5] == [40, 99, 72, 35, 79]


def test_class_order_of_names():
    names = ("cat", "dog", "cow")
    assert make_class_order(3, 0, ["cow", "cat", "dog"], names).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("order", "names", "said"),
    [
        ("icarl", ("a", "b"), "class_order = 'icarl': expected one of icarl-1993; did you mean 'icarl-1993'"),
        (["cat", "dgo"], ("cat", "dog"), "class_order: no class 'dgo': did you mean 'dog'"),
        (["cat", 1], ("cat", "dog"), "class_order: no class 1: "),
        ([0, "dog"], ("cat", "dog"), "class_order: no class 0: "),
        ([0, "1"], ("1", "0"), "class_order: no class 0: did you mean '0'"),
        (["cat", "cat"], ("cat", "dog"), "must name each of the classes 0..1 once; it has 2 entries, 1 of them"),
        (["a", "a"], ("a", "a"), "it has 2 entries, 1 of them different; missing: [0]"),
    ],
)
def test_names_that_are_no_class_order(order, names, said):
    with pytest.raises(InputError) as error:
        make_class_order(len(names), 0, order, names)
    assert said in str(error.value)
