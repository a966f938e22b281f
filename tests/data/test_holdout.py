"""Held-out rows: complete, stratified, grouped, and decided by content and seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mix_pools import digests

from sft_cli.data.mixing.holdout import STAYS_IN_TRAINING, group_families, hold_out
from sft_cli.errors import SftError

rows = st.lists(st.tuples(st.integers(0, 30), st.integers(-1, 8), st.integers(0, 2)), min_size=1, max_size=60)
fractions = st.floats(0.001, 0.999)
seeds = st.integers(0, 5)


def split(contents, groups=None, sources=None, fraction=0.0, number=None, seed=0):
    """Call ``hold_out`` for rows with these prompts; no groups and one source by default."""
    none, one = np.full(len(contents), -1, np.int64), np.zeros(len(contents), np.int64)
    groups = none if groups is None else np.array(groups, np.int64)
    sources = one if sources is None else np.array(sources, np.int64)
    return hold_out(digests(contents), groups, sources, fraction, number, seed)


def families(prompts, groups) -> list[int]:
    """Return connected components by merging sets row by row."""
    result: list[set] = []
    for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        new = {row, ("prompt", prompt)} | ({("group", group)} if group >= 0 else set())
        new = new.union(*(family for family in result if family & new))
        result = [family for family in result if not family & new] + [new]
    of = {row: number for number, family in enumerate(result) for row in family}
    return [of[row] for row in range(len(prompts))]


BY_HAND = [
    pytest.param(["a"] * 8 + ["b", "c"], [-1] * 10, [8, 9], id="a family above the share is passed over"),
    pytest.param(list("abcdefghij"), [0] * 8 + [-1, -1], [8, 9], id="a group is a family"),
    pytest.param(list("aabcdefgij"), [-1, 0, 0, 1, 1, 2, 2, 3, 3, 3], None, id="families within families"),
    pytest.param(["a"] * 6 + ["b"] * 4, [-1] * 10, [6, 7, 8, 9], id="at least one: the smallest family"),
    pytest.param(["a"] * 10, [-1] * 10, [], id="never all: one family alone"),
]


@pytest.mark.parametrize(("prompts", "groups", "held_out"), BY_HAND)
def test_hold_out_a_fifth_of_ten_rows(prompts, groups, held_out):
    result = np.flatnonzero(split(prompts, groups, fraction=0.2)).tolist()
    if held_out is None:
        assert result in ([3, 4], [5, 6])
    else:
        assert result == held_out


@given(rows, fractions, seeds)
def test_families_stay_together_and_sources_contribute_their_share(made, fraction, seed):
    prompts, groups, sources = map(list, zip(*made, strict=True))
    held_out = split(prompts, groups, sources, fraction, seed=seed)
    family = families(prompts, groups)
    assert {f for f, out in zip(family, held_out, strict=True) if out}.isdisjoint(
        f for f, out in zip(family, held_out, strict=True) if not out
    )
    for source in set(sources):
        mine = [row for row in range(len(made)) if sources[row] == source]
        out = sum(held_out[row] for row in mine)
        assert out < len(mine), "never all"
        alone = all(family[row] not in [family[r] for r in range(len(made)) if sources[r] != source] for row in mine)
        if alone and len({family[row] for row in mine}) > 1:
            assert out >= 1
        if out > max(1, round(fraction * len(mine))):
            assert len({family[row] for row in mine if held_out[row]}) == 1 or not alone


@given(st.integers(2, 60), fractions, seeds)
def test_held_out_number_of_different_rows(num_rows, fraction, seed):
    wanted = min(max(1, round(fraction * num_rows)), num_rows - 1)
    assert split(range(num_rows), fraction=fraction, seed=seed).sum() == wanted


def test_hold_out_of_no_rows():
    assert not split(range(5), fraction=0.0).any()
    assert split([], fraction=0.5).tolist() == []
    assert split(["only"], fraction=0.5).tolist() == [False]


def test_held_out_number_is_divided_by_source_size():
    """7 of 60, 30 and 10 rows: 4.2, 2.1 and 0.7."""
    sources = [0] * 60 + [1] * 30 + [2] * 10
    held_out = split(range(100), sources=sources, number=7)
    assert np.bincount(np.array(sources)[held_out], minlength=3).tolist() == [4, 2, 1]


def test_a_number_never_holds_out_all_rows_of_a_source():
    held_out = split(range(4), sources=[0, 0, 0, 1], number=3)
    assert held_out[:3].sum() == 2
    assert not held_out[3]


def test_hold_out_refuses_more_rows_than_exist():
    with pytest.raises(SftError) as caught:
        split(range(4), sources=[0, 0, 0, STAYS_IN_TRAINING], number=3)
    assert str(caught.value) == (
        "data.val_rows: data.val_rows is 3, but there are only 3 training rows\n"
        "  fix: data.val_rows=1, or a share: data.val_fraction=0.05"
    )


def test_hold_out_keeps_families_of_training_rows():
    prompts, sources = ["a", "b", "c", "a"], [0, 0, 0, STAYS_IN_TRAINING]
    for seed in range(10):
        held_out = split(prompts, sources=sources, fraction=0.9, seed=seed)
        assert held_out.tolist() == [False, True, True, False]


@given(rows, fractions, seeds, st.randoms(use_true_random=False))
def test_order_of_files_does_not_matter(made, fraction, seed, random):
    order = random.sample(range(len(made)), len(made))
    held_out, moved = (
        split(*map(list, zip(*some, strict=True)), fraction, seed=seed) for some in (made, [made[i] for i in order])
    )
    assert np.array_equal(held_out[order], moved)


def test_added_rows_barely_change_the_split():
    before, after = (split([f"row {i}" for i in range(n)], fraction=0.1, seed=3) for n in (1000, 1100))
    assert (before & after[:1000]).sum() >= 80


def test_seed_changes_the_held_out_rows():
    chosen = [tuple(np.flatnonzero(split(range(1000), fraction=0.1, seed=seed))) for seed in range(5)]
    assert len(set(chosen)) == 5
    assert all(np.mean(indices) == pytest.approx(499.5, abs=120) for indices in chosen)


@given(rows)
def test_families_equal_connected_components(made):
    prompts, groups, _ = map(list, zip(*made, strict=True))
    result = group_families(digests(prompts), np.array(groups, np.int64))
    expected = families(prompts, groups)
    assert len(set(result.tolist())) == len(set(expected)) == len(set(zip(result.tolist(), expected, strict=True)))
    assert all(result[row] == min(i for i, f in enumerate(expected) if f == expected[row]) for row in range(len(made)))


def test_families_differ_in_trailing_zero_bytes():
    """NumPy ignores trailing zeros when it compares bytes; digests can end in zeros."""
    keys = np.array([b"a" + bytes(15), b"a" + bytes(14) + b"\1", bytes(15) + b"a", bytes(16)], "S16")
    assert group_families(np.concatenate([keys, keys]), np.full(8, -1)).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_long_chain_is_one_family():
    """Row 2i shares its prompt with row 2i + 1, which shares a group with row 2i + 2; the search is fast."""
    at = np.random.default_rng(0).permutation(100_000)
    result = group_families(digests((at // 2).tolist()), (at + 1) // 2)
    assert not result.any()
