"""Rows per source and epoch: by hand for every strategy, and as properties of any mix."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mix_pools import digests, pool, pools

from sft_cli.config.schema.data import DataConfig, StoppingStrategy, Strategy
from sft_cli.data.mixing.epoch_draw import draw_epoch, subsample
from sft_cli.errors import SftError
from tests.data.mix_helpers import drawn, mixed

BY_HAND = [
    # sizes 10, 20 and 70
    pytest.param({"mix": mixed(a=1.0, b=1.0, c=1.0)}, [10, 20, 70], id="proportional: everything once"),
    pytest.param({"mix": mixed(a=2.5, b=0.5, c=0.1)}, [25, 10, 7], id="proportional: weights are passes"),
    pytest.param({"mix": mixed(a=1.0, b=1.0, c=0.001)}, [10, 20, 1], id="proportional: at least one row"),
    pytest.param(
        {"mix": mixed(a={"cap": 30}, b={"cap": 30}, c={"cap": 30})}, [10, 20, 30], id="FLAN: at most 30 rows count"
    ),
    pytest.param(
        # rates 10/60, 20/60, 30/60 (FLAN's min(e, K) over their sum) of 120 rows
        {
            "mix": mixed(a={"cap": 30}, b={"cap": 30}, c={"cap": 30}),
            "stopping_strategy": StoppingStrategy.total_rows,
            "total_rows": 120,
        },
        [20, 40, 60],
        id="FLAN: rates of 120 rows",
    ),
    pytest.param(
        {"mix": mixed(a=1.0, b=1.0, c=1.0), "stopping_strategy": StoppingStrategy.total_rows, "total_rows": 101},
        [10, 20, 71],  # 10.1, 20.2, 70.7
        id="total_rows: the largest remainder is rounded up",
    ),
    pytest.param(
        {"mix": mixed(a=1.0, b=1.0, c=2.0), "strategy": Strategy.equal},
        [10, 10, 20],  # a is used up
        id="equal until the first is exhausted",
    ),
    pytest.param(
        {
            "mix": mixed(a=1.0, b=1.0, c=2.0),
            "strategy": Strategy.equal,
            "stopping_strategy": StoppingStrategy.all_exhausted,
        },
        [35, 35, 70],  # c is used completely
        id="equal until all are exhausted",
    ),
    pytest.param(
        {
            "mix": mixed(a=1.0, b=1.0, c=2.0),
            "strategy": Strategy.equal,
            "stopping_strategy": StoppingStrategy.total_rows,
            "total_rows": 8,
        },
        [2, 2, 4],
        id="equal, 8 rows",
    ),
    pytest.param(
        # T5: rates proportional to min(e, K)^(1/T): 10^(1/2), 20^(1/2), 40^(1/2) = 3.162, 4.472, 6.325 of 13.959
        {
            "mix": mixed(a={"cap": 40}, b={"cap": 40}, c={"cap": 40}),
            "strategy": Strategy.temperature,
            "temperature": 2.0,
            "stopping_strategy": StoppingStrategy.total_rows,
            "total_rows": 1000,
        },
        [227, 320, 453],  # 226.5, 320.4, 453.1
        id="T5: temperature 2 with a limit of 40",
    ),
    pytest.param(
        {"mix": mixed(a=1.0, b=1.0, c=1.0), "strategy": Strategy.temperature, "temperature": 1.0},
        [10, 20, 70],
        id="temperature 1 is by size",
    ),
    pytest.param(
        {"mix": mixed(a=1.0, b=1.0, c=1.0), "strategy": Strategy.temperature, "temperature": 1e9},
        [10, 10, 10],
        id="a high temperature is equal",
    ),
    pytest.param(
        # sizes 10 * 4, 20, 70: a counts as 40
        {
            "mix": mixed(a=4.0, b=1.0, c=1.0),
            "strategy": Strategy.temperature,
            "temperature": 1.0,
            "stopping_strategy": StoppingStrategy.total_rows,
            "total_rows": 26,
        },
        [8, 4, 14],
        id="a weight multiplies the size below the root",
    ),
    pytest.param(
        # rows of 4, 2 and 1 trained tokens: 40 tokens each are all of a, all of b and 40 rows of c
        {"mix": mixed(a=1.0, b=1.0, c=1.0), "strategy": Strategy.trained_tokens},
        [10, 20, 40],
        id="trained tokens until the first is exhausted",
    ),
    pytest.param(
        # 70 tokens each
        {
            "mix": mixed(a=2.0, b=1.0, c=1.0),
            "strategy": Strategy.trained_tokens,
            "stopping_strategy": StoppingStrategy.all_exhausted,
        },
        [35, 35, 70],
        id="trained tokens until all are exhausted",
    ),
    pytest.param(
        # 8 tokens each
        {
            "mix": mixed(a=1.0, b=1.0, c=1.0),
            "strategy": Strategy.trained_tokens,
            "stopping_strategy": StoppingStrategy.total_rows,
            "total_rows": 14,
        },
        [2, 4, 8],
        id="trained tokens, 14 rows",
    ),
    pytest.param(
        {"mix": mixed(a={"epochs": 3.0}, b=1.0, c=0.5)},
        [30, 20, 35],
        id="epochs and passes",
    ),
    pytest.param(
        {"mix": mixed(a={"epochs": 1.5}, b=1.0, c=1.0), "strategy": Strategy.equal},
        [15, 20, 20],
        id="epochs take a source out of the shares",
    ),
    pytest.param(
        {
            "mix": mixed(a={"epochs": 1.0}, b=1.0, c=3.0),
            "strategy": Strategy.equal,
            "stopping_strategy": StoppingStrategy.total_rows,
            "total_rows": 50,
        },
        [10, 10, 30],
        id="epochs are part of the total",
    ),
    pytest.param(
        {"mix": mixed(a={"epochs": 0.5}, b=1.0, c=1.0), "strategy": Strategy.trained_tokens},
        [5, 20, 40],
        id="epochs are rows, also of a mix by tokens",
    ),
]


@pytest.mark.parametrize(("settings", "rows"), BY_HAND)
def test_rows_of_an_epoch(settings, rows):
    assert drawn(DataConfig(**settings), {"a": [4] * 10, "b": [2] * 20, "c": [1] * 70}) == [rows]


def test_two_and_a_half_passes_repeat_rows_evenly():
    data = DataConfig(mix=mixed(a=2.5))
    (copies,) = draw_epoch(data, pools(data, {"a": [1] * 10}), 0).stages[0].copies
    assert Counter(copies.tolist()) == {2: 5, 3: 5}
    assert copies.dtype == np.int32


@pytest.mark.parametrize(
    ("settings", "where", "problem", "fix"),
    [
        pytest.param(
            {"mix": mixed(a=1.0, b=1.0), "strategy": Strategy.equal},
            "data.mix.b",
            "the source has no row left, so its share of the mix cannot be met",
            "remove b from data.mix, or keep more of its rows: data.mix.b.max_rows, clean.steps",
            id="no rows",
        ),
        pytest.param(
            {"mix": mixed(a=1.0, b={"epochs": 1.0}, c=1.0), "strategy": Strategy.trained_tokens},
            "data.mix.c",
            "the source has no trained token left, so its share of the mix cannot be met",
            "remove c from data.mix, or keep more of its rows: data.mix.c.max_rows, clean.steps",
            id="no trained tokens",
        ),
        pytest.param(
            {"mix": mixed(a={"epochs": 3.0}, c=1.0), "stopping_strategy": StoppingStrategy.total_rows, "total_rows": 6},
            "data.total_rows",
            "data.total_rows is 6, but the sources with epochs alone give 6 rows",
            "data.total_rows=7 or more",
            id="no rows left after epochs",
        ),
        pytest.param(
            {"mix": mixed(a=1e9)},
            "data.mix",
            "an epoch would hold 2,000,000,000 rows, more than 1,000,000,000",
            "reduce epochs or weight of its sources, or data.total_rows; trainer.epochs=2 repeats the whole epoch",
            id="weight beyond measure",
        ),
        pytest.param(
            {"mix": mixed(a={"epochs": 1e12}, c=1.0)},
            "data.mix",
            "an epoch would hold 2,000,000,000,002 rows, more than 1,000,000,000",
            "reduce epochs or weight of its sources, or data.total_rows; trainer.epochs=2 repeats the whole epoch",
            id="epochs beyond measure",
        ),
    ],
)
def test_draw_epoch_refuses_impossible_shares(settings, where, problem, fix):
    data = DataConfig(**settings)
    with pytest.raises(SftError) as caught:
        draw_epoch(data, pools(data, {"a": [1, 1], "b": [], "c": [0, 0]}), 0)
    assert (caught.value.where, caught.value.problem, caught.value.fix) == (where, problem, fix)


def test_empty_source_is_allowed_if_weights_are_passes():
    assert drawn(DataConfig(mix=mixed(a=2.0, b=2.0)), {"a": [1], "b": []}) == [[2, 0]]


def test_rows_are_chosen_by_seed_and_name_not_by_order():
    keys = digests(range(1000))
    first = np.flatnonzero(subsample(keys, 100, 0, "mine"))
    assert first.tolist() == np.flatnonzero(subsample(keys, 100, 0, "mine")).tolist()
    others = [subsample(keys, 100, seed, name) for seed, name in ((1, "mine"), (0, "other"))]
    assert all(np.flatnonzero(other).tolist() != first.tolist() for other in others)
    assert first.mean() == pytest.approx(499.5, abs=120)
    assert subsample(keys, None, 0, "mine").all()
    assert subsample(keys, 5000, 0, "mine").all()


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(0, 40), st.integers(0, 40), st.randoms())
def test_larger_sample_only_adds_rows_in_any_file_order(contents, fewer, more, random):
    few, many = (subsample(digests(contents), limit, 0, "mine") for limit in sorted((fewer, more)))
    assert (few <= many).all()
    assert few.sum() == min(fewer, more, len(contents))
    order = random.sample(range(len(contents)), len(contents))
    moved = subsample(digests([contents[i] for i in order]), int(few.sum()), 0, "mine")
    chosen, again = ([contents[i] for i in np.flatnonzero(few)], [contents[order[i]] for i in np.flatnonzero(moved)])
    assert Counter(chosen) == Counter(again), "of equal rows as many are chosen, whichever they are"


def test_equal_rows_are_chosen_independently():
    """Each occurrence has its own random key: a row with a hundred copies does not fill a sample alone."""
    kept = subsample(digests([0] * 100 + list(range(1, 101))), 100, 0, "mine")
    assert 30 < kept[:100].sum() < 70


def test_keys_differ_in_trailing_zero_bytes():
    """NumPy ignores trailing zeros when it compares bytes; digests can end in zeros."""
    keys = np.array([b"a" + bytes(15), b"a" + bytes(14) + b"\1", bytes(16), b"a" + bytes(15)], "S16")
    sampled = [subsample(keys, 2, seed, "mine").tolist() for seed in range(40)]
    assert len({tuple(rows) for rows in sampled}) >= 4


def test_largest_remainders_of_exact_fractions():
    data = DataConfig(
        mix=mixed(a=1.0, b=1.0, c=1.0),
        strategy=Strategy.equal,
        stopping_strategy=StoppingStrategy.total_rows,
        total_rows=2,
    )
    assert drawn(data, {name: [1] * 3 for name in "abc"}) == [[1, 1, 0]]


def test_draw_epoch_requires_pools_in_mix_order():
    data = DataConfig(mix=mixed(a=1.0, b=1.0))
    with pytest.raises(AssertionError, match="in the order of the mix"):
        draw_epoch(data, [pool("b", data.mix["b"], [1]), pool("a", data.mix["a"], [1])], 0)
