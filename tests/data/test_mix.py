"""Which rows are held out and which are taken: decided by the seed, complete, never the first ones."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.data.mix import split_validation, take

keys = st.lists(st.text(max_size=2), max_size=40)
fractions = st.floats(0, 0.999)
seeds = st.integers(0, 5)


@given(keys, fractions, seeds)
def test_a_split_is_complete_and_disjoint(keys, fraction, seed):
    train, held_out = split_validation(keys, fraction, seed)
    assert sorted(train + held_out) == list(range(len(keys)))
    assert train == sorted(train)
    assert held_out == sorted(held_out)
    assert not {keys[index] for index in train} & {keys[index] for index in held_out}
    assert split_validation(keys, fraction, seed) == (train, held_out)


@given(st.integers(0, 60), fractions, seeds)
def test_the_number_held_out(num_rows, fraction, seed):
    """The rounded share of rows that differ; at least one, never all."""
    _, held_out = split_validation([str(index) for index in range(num_rows)], fraction, seed)
    wanted = min(max(1, round(fraction * num_rows)), max(0, num_rows - 1)) if fraction else 0
    assert len(held_out) == wanted


def test_equal_rows_stay_on_one_side():
    """A group larger than the share is passed over."""
    train, held_out = split_validation(["big"] * 8 + ["a", "b"], 0.2, seed=0)
    assert train == list(range(8))
    assert held_out == [8, 9]


def test_rows_added_later_hardly_move_the_others():
    few = [f"row {index}" for index in range(1000)]
    more = few + [f"row {index}" for index in range(1000, 1100)]
    before, after = (set(split_validation(rows, 0.1, seed=3)[1]) for rows in (few, more))
    assert len(before & after) >= 80


def test_another_seed_holds_out_other_rows():
    rows = [str(index) for index in range(1000)]
    chosen = [tuple(split_validation(rows, 0.1, seed)[1]) for seed in range(5)]
    assert len(set(chosen)) == 5
    assert all(sum(indices) / len(indices) == pytest.approx(499.5, abs=120) for indices in chosen)


@pytest.mark.parametrize(
    ("num_rows", "max_rows", "weight", "expected"),
    [
        pytest.param(10, None, 1.0, {1: 10}, id="all-once"),
        pytest.param(10, 4, 1.0, {1: 4}, id="some"),
        pytest.param(10, 99, 1.0, {1: 10}, id="fewer-than-asked"),
        pytest.param(10, None, 0.3, {1: 3}, id="a-share"),
        pytest.param(10, None, 2.0, {2: 10}, id="twice"),
        pytest.param(10, None, 2.5, {2: 5, 3: 5}, id="two-and-a-half-times"),
        pytest.param(10, 4, 1.5, {1: 2, 2: 2}, id="some-and-a-half"),
        pytest.param(10, None, 0.001, {1: 1}, id="at-least-one"),
        pytest.param(0, None, 2.0, {}, id="nothing"),
    ],
)
def test_copies_per_row(num_rows, max_rows, weight, expected):
    taken = take(num_rows, max_rows, weight, seed=1, name="mine")
    assert Counter(Counter(taken).values()) == expected
    assert taken == sorted(taken)


@given(st.integers(0, 50), st.none() | st.integers(1, 60), st.floats(0.01, 4), seeds)
def test_take_counts(num_rows, max_rows, weight, seed):
    taken = Counter(take(num_rows, max_rows, weight, seed, "mine"))
    limit = num_rows if max_rows is None else min(num_rows, max_rows)
    assert set(taken) <= set(range(num_rows))
    assert len(taken) <= limit
    if weight >= 1:
        assert len(taken) == limit
    assert taken.total() == pytest.approx(weight * limit, abs=1)
    if taken:
        assert max(taken.values()) - min(taken.values()) <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), seeds)
def test_more_rows_only_add_rows(num_rows, fewer, more, seed):
    small, large = (take(num_rows, limit, 1.0, seed, "mine") for limit in sorted((fewer, more)))
    assert set(small) <= set(large)


def test_the_seed_and_the_name_choose_not_the_order():
    first = take(1000, 100, 1.0, seed=0, name="mine")
    assert first == take(1000, 100, 1.0, seed=0, name="mine")
    assert first != list(range(100))
    assert first != take(1000, 100, 1.0, seed=1, name="mine")
    assert first != take(1000, 100, 1.0, seed=0, name="other")
    assert sum(first) / 100 == pytest.approx(499.5, abs=120)
