"""Where a step is computed: a partition, within the budget, balanced; and the one shift of targets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.config.schema import Reduction
from sft_cli.data.prepared import Tokens
from sft_cli.train.layout import collate, denominator, layout


def tokens(ids, weights) -> Tokens:
    return Tokens(np.array(ids, np.int64), np.array(weights, np.float32))


@pytest.mark.parametrize(
    ("lengths", "budget", "ranks", "placed"),
    [
        pytest.param([8], 8, 1, [[[0]]], id="exactly-full"),
        pytest.param([3, 5, 4], 8, 1, [[[1, 0], [2]]], id="longest-first-into-the-fullest"),
        pytest.param([4, 4, 4], 8, 1, [[[0, 1], [2]]], id="ties-keep-input-order"),
        pytest.param([9, 2], 8, 1, [[[0], [1]]], id="too-long-for-the-budget-is-alone"),
        pytest.param([6, 3, 2], 8, 2, [[[0]], [[1, 2]]], id="ranks-share-tokens"),
        pytest.param([6], 8, 2, [[[0]], [[]]], id="an-idle-rank-gets-an-empty-micro-batch"),
        pytest.param([3, 3], 0, 1, [[[0], [1]]], id="budget-0-is-one-each"),
    ],
)
def test_placement(lengths, budget, ranks, placed):
    assert layout(lengths, budget, ranks) == placed


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(50, 120), st.integers(1, 4))
def test_it_is_a_balanced_partition_within_the_budget(lengths, budget, ranks):
    placed = layout(lengths, budget, ranks)

    assert sorted(i for rank in placed for batch in rank for i in batch) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in batch) <= budget for rank in placed for batch in rank)
    assert len({len(rank) for rank in placed}) == 1
    work = [sum(lengths[i] for batch in rank for i in batch) for rank in placed]
    assert max(work) - min(work) <= max(lengths)


def test_collate_by_hand():
    """Two examples; the table is the specification: the id at t is predicted at t - 1, across no boundary."""
    first, second = tokens([5, 6, 7, 8], [0, 0, 1, 1]), tokens([9, 5, 7], [0, 0.5, 0])

    batch = collate([first, second], Reduction.token)

    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 5]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.max_document == 3
    table = [(1, 7, 1.0), (2, 8, 1.0), (3, 5, 0.5)]
    assert (
        list(zip(*(t.tolist() for t in (batch.target_at, batch.targets, batch.target_weights)), strict=True)) == table
    )


def test_example_reduction_makes_every_example_count_the_same():
    first, second = tokens([5, 6, 7, 8], [0, 0, 1, 1]), tokens([9, 5, 7], [0, 0.5, 0])

    batch = collate([first, second], Reduction.example)

    assert batch.target_weights.tolist() == [0.5, 0.5, 1.0]
    assert denominator([first, second], Reduction.example) == 2
    assert denominator([first, second], Reduction.token) == 2.5


def test_an_empty_micro_batch_is_one_token_without_a_target():
    batch = collate([], Reduction.token)

    assert batch.input_ids.tolist() == [[0]]
    assert batch.cu_seqlens.tolist() == [0, 1]
    assert len(batch.targets) == len(batch.target_at) == len(batch.target_weights) == 0
