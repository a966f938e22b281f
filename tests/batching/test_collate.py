"""Micro-batches partition a step, stay within the budget and have similar costs; targets are shifted by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.batching.bin_packing import attention_pair_cost, document_costs, partition
from sft_cli.batching.collate import collate, example_loss_weights, loss_denominator, plan_micro_batches
from sft_cli.config.schema.trainer import Reduction
from tests.train.helpers import expected, families, predictions, tokens


@pytest.mark.parametrize(
    ("lengths", "budget", "ranks", "micro_batches"),
    [
        pytest.param([8], 8, 1, [[[0]]], id="exactly-full"),
        pytest.param([3, 5, 4], 8, 1, [[[0, 2], [1]]], id="the-longest-row-first"),
        pytest.param([4, 4, 4], 8, 1, [[[0, 2], [1]]], id="ties-keep-input-order"),
        pytest.param([9, 2], 8, 1, [[[0], [1]]], id="too-long-for-the-budget-is-alone"),
        pytest.param([6, 3, 2], 8, 2, [[[0]], [[1, 2]]], id="ranks-share-tokens"),
        pytest.param([6], 8, 2, [[[0]], [[]]], id="an-idle-rank-gets-an-empty-micro-batch"),
        pytest.param([3, 3], 0, 1, [[[0], [1]]], id="budget-0-is-one-each"),
        pytest.param([5, 1, 4, 2], 0, 2, [[[0], [1]], [[2], [3]]], id="one-each-on-two-ranks"),
        pytest.param([2] * 9, 8, 1, [[[0, 3, 6], [1, 4, 7], [2, 5, 8]]], id="three-of-equal-size"),
        pytest.param([0, 3, 0], 8, 1, [[[1, 0, 2]]], id="empty-examples-need-no-row"),
        pytest.param([0, 0], 0, 2, [[[0, 1]], [[]]], id="nothing-to-compute"),
        pytest.param([], 8, 2, [[[]], [[]]], id="no-examples"),
    ],
)
def test_partition_by_hand(lengths, budget, ranks, micro_batches):
    assert partition(lengths, budget, ranks) == micro_batches


def sizes_of(micro_batches, lengths) -> list[list[int]]:
    return [[sum(lengths[i] for i in row) for row in rank] for rank in micro_batches]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(50, 120), st.integers(1, 4))
def test_partition_is_complete_and_within_the_limit(lengths, budget, ranks):
    micro_batches = partition(lengths, budget, ranks)

    assert sorted(i for rank in micro_batches for batch in rank for i in batch) == list(range(len(lengths)))
    sizes = sizes_of(micro_batches, lengths)
    assert max(map(max, sizes)) <= budget
    assert len({len(rank) for rank in micro_batches}) == 1
    assert all(rank[0] == max(rank) for rank in sizes)
    work = [sum(rank) for rank in sizes]
    assert max(work) - min(work) <= budget
    assert partition(lengths, budget, ranks) == micro_batches


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(50, 120), st.integers(1, 4))
def test_no_more_micro_batches_than_first_fit_needs(lengths, budget, ranks):
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + length <= budget]
        if fitting:
            rows[fitting[0]] += length
        else:
            rows.append(length)
    assert len(partition(lengths, budget, ranks)[0]) == -(-len(rows) // ranks)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_micro_batches_and_ranks_have_similar_costs(seed, ranks):
    """There are 300 examples with log-normal lengths, each a few percent of a row."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(5, 0.8, 300), 20, 1500).astype(int).tolist()
    sizes = sizes_of(partition(lengths, 8192, ranks), lengths)
    rows = [row for rank in sizes for row in rank]
    assert len(rows) == ranks * -(-sum(lengths) // (8192 * ranks))
    assert min(rows) > 0.93 * max(rows)
    work = [sum(rank) for rank in sizes]
    assert min(work) > 0.97 * max(work)


def test_long_documents_cost_more_than_their_tokens():
    """One example of 4,000 tokens and many short ones: equal tokens would give rows of 4,000."""
    lengths = [4000] + [100] * 40
    by_tokens = sizes_of(partition(lengths, 8000, 2, pair_cost=0.0), lengths)
    by_cost = sizes_of(partition(lengths, 8000, 2, pair_cost=1e-3), lengths)
    assert by_tokens == [[4000], [4000]]
    assert sorted(by_cost) == [[4000], [4000]]
    lengths += [100] * 40
    assert sorted(sum(rank) for rank in sizes_of(partition(lengths, 8000, 2, pair_cost=0.0), lengths)) == [6000, 6000]
    assert sorted(sum(rank) for rank in sizes_of(partition(lengths, 8000, 2, pair_cost=1e-3), lengths)) == [4000, 8000]


def test_cost_by_hand():
    """Three tokens attend to 1, 2 and 3 keys in a model of 24 layers, width 896 and 0.36B parameters."""
    assert document_costs(np.array(3), 0.5) == 3 + 0.5 * 6
    assert attention_pair_cost(896, 24, 358_000_000) == pytest.approx(1.2e-4, rel=0.01)


def test_collate_by_hand():
    """Three examples: the position t - 1 of the same example predicts the id at t.

    The last trained id and all ids after it are not computed: 7 and 7 of the second example, all of the third.
    """
    first, second = tokens([5, 6, 7, 8], [0, 0, 1, 1]), tokens([9, 5, 3, 7, 7], [0, 0.5, 0.5, 0, 0])
    untrained = tokens([4, 4, 4], [1, 0, 0])

    batch = collate([first, untrained, second], Reduction.token)

    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 5]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.documents.lengths == (3, 2)
    assert batch.documents.read_positions.tolist() == [1, 2, 3, 4]
    table = [(1, 7, 1.0), (2, 8, 1.0), (3, 5, 0.5), (4, 3, 0.5)]
    assert (
        list(zip(*(t.tolist() for t in (batch.target_at, batch.targets, batch.target_weights)), strict=True)) == table
    )
    assert batch.replay is None


@given(families())
def test_a_batch_without_sharing_predicts_each_example_as_if_alone(examples):
    batch = collate(examples, Reduction.token)
    assert predictions(batch) == expected(examples)
    assert batch.documents.key_positions is None


def test_example_reduction_makes_every_example_count_the_same():
    first, second = tokens([5, 6, 7, 8], [0, 0, 1, 1]), tokens([9, 5, 7], [0, 0.5, 0])

    batch = collate([first, second], Reduction.example)

    assert batch.target_weights.tolist() == [0.5, 0.5, 1.0]
    assert loss_denominator([first, second], Reduction.example) == 2
    assert loss_denominator([first, second], Reduction.token) == 2.5


ROWS = [tokens([5, 6, 7, 8], [0, 0, 1, 1]), tokens([9, 5, 7], [1, 0.5, 0]), tokens([1, 2, 3, 4], [0, 1, 1, 1])]
SILENT = tokens([1, 2], [1, 0])


@pytest.mark.parametrize(
    ("reduction", "replayed", "replay", "scales"),
    [
        pytest.param(Reduction.token, None, None, [1 / 5.5] * 4, id="one-mean"),
        pytest.param(Reduction.token, [False, False, True, False], None, [1 / 5.5] * 4, id="replayed-like-all-others"),
        pytest.param(Reduction.token, [False, False, True, False], 0.3, [1 / 2.5, 1 / 2.5, 0.3 / 3, 0.4], id="lambda"),
        pytest.param(Reduction.token, [False] * 4, 0.3, [1 / 5.5] * 4, id="none-replayed-in-this-step"),
        pytest.param(Reduction.token, [True] * 4, 0.5, [0.5 / 5.5] * 4, id="all-replayed-in-this-step"),
        pytest.param(Reduction.example, None, None, [1 / 3] * 4, id="examples"),
        pytest.param(Reduction.example, [False, False, True, False], 2.0, [0.5, 0.5, 2.0, 0.5], id="examples-lambda"),
    ],
)
def test_example_loss_weights_by_hand(reduction, replayed, replay, scales):
    """The weights 2, 0.5 and 3 count: nothing predicts the first id of an example. The fourth example has none."""
    assert example_loss_weights([*ROWS, SILENT], reduction, replayed, replay) == pytest.approx(scales)


def test_a_step_without_trained_ids_has_finite_weights():
    assert example_loss_weights([SILENT], Reduction.token) == [1.0]
    assert collate([SILENT], Reduction.example).target_weights.tolist() == []


def test_factors_and_replay_reach_the_targets():
    batch = collate(
        [ROWS[2], SILENT, ROWS[0]], Reduction.token, example_weights=[2, 5, 0.5], replayed=[True, True, False]
    )
    assert batch.target_weights.tolist() == [2, 2, 2, 0.5, 0.5]
    assert batch.replay.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("examples", [[], [SILENT]], ids=["none", "none-trained"])
def test_an_empty_micro_batch_is_one_token_without_a_target(examples):
    batch = collate(examples, Reduction.token, replayed=[True] * len(examples))

    assert batch.input_ids.tolist() == [[0]]
    assert batch.documents.lengths == (1,)
    assert batch.documents.read_positions is None
    assert len(batch.targets) == len(batch.target_at) == len(batch.target_weights) == len(batch.replay) == 0
    assert batch.replay.dtype == torch.bool


def test_types_and_shapes():
    batch = collate(ROWS, Reduction.example)
    names = ("input_ids", "positions", "targets", "target_at", "target_weights")
    kinds = [torch.int64] * 4 + [torch.float32]
    assert [getattr(batch, name).dtype for name in names] == kinds
    assert batch.input_ids.shape == batch.positions.shape == (1, 3 + 1 + 3)


def test_computed_tokens_exclude_unneeded_tokens():
    plan = plan_micro_batches([*ROWS, SILENT], max_tokens=5, world_size=3)
    assert (plan.computed_tokens, plan.prefixes) == (7, None)
    assert plan_micro_batches([ROWS[0]], max_tokens=8, world_size=3).computed_tokens == 3 + 1 + 1
