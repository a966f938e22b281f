"""Shared prefixes contain no position with a loss, and a batch with them gives each example the same targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.batching import shared_prefixes
from sft_cli.batching.bin_packing import MAX_KEYS_PER_TOKEN
from sft_cli.batching.collate import collate, keys_per_token, plan_micro_batches
from sft_cli.batching.shared_prefixes import MIN_SHARED_TOKENS, PrefixForest, find_shared_prefixes, target_positions
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from tests.lanes import examples
from tests.train.helpers import answering, expected, families, predictions, tokens

SYSTEM = list(range(100, 120))
QUESTION = list(range(200, 210))


def prefixes_of(examples) -> tuple[list[int], list[int], list[int]]:
    forest = find_shared_prefixes(examples)
    return list(forest.ends), list(forest.parents), list(forest.of_example)


def test_no_common_prefix():
    assert prefixes_of([answering(SYSTEM, [1, 2]), answering(QUESTION, [1, 2])]) == ([], [], [-1, -1])
    assert prefixes_of([]) == ([], [], [])
    assert prefixes_of([answering(SYSTEM, [1])]) == ([], [], [-1])


def test_nested_prefixes():
    examples = [
        answering([*SYSTEM, *QUESTION, 1], [5, 6]),
        answering([*SYSTEM, 9, 9], [5, 6]),
        answering([*SYSTEM, *QUESTION, 2], [5, 6]),
    ]
    assert prefixes_of(examples) == ([20, 30], [-1, 0], [1, 0, 1])


def test_the_position_that_predicts_the_first_trained_id_is_not_shared():
    """Both examples have a loss at it: of a common prompt of 20 ids, 19 are shared."""
    assert prefixes_of([answering(SYSTEM, [1, 2]), answering(SYSTEM, [1, 3])]) == ([19], [-1], [0, 0])


def test_an_unrolled_conversation_shares_its_history():
    """The answer that is trained in the first example is history in the second, whose own answer comes later."""
    first = answering(SYSTEM, QUESTION)
    second = answering([*SYSTEM, *QUESTION, *range(10)], [7, 8])
    third = answering([*SYSTEM, *QUESTION, *range(10), 7, 8, *range(10)], [7, 8])
    assert prefixes_of([third, first, second]) == ([19, 39], [-1, 0], [1, 0, 1])


def test_a_prefix_that_is_trained_in_one_example_is_not_shared():
    trained = tokens([*SYSTEM, *QUESTION], [0, 0, 1] + [0] * 26 + [1])
    assert prefixes_of([trained, answering([*SYSTEM, *QUESTION], [1])]) == ([], [], [-1, -1])


def test_the_weight_of_the_first_id_does_not_count():
    trained_first = tokens([*SYSTEM, 1, 2], [1] + [0] * 19 + [1, 1])
    assert target_positions(trained_first).tolist() == [19, 20]
    assert prefixes_of([trained_first, answering(SYSTEM, [1, 2])]) == ([19], [-1], [0, 0])


@pytest.mark.parametrize(("length", "shared"), [(MIN_SHARED_TOKENS, []), (MIN_SHARED_TOKENS + 1, [MIN_SHARED_TOKENS])])
def test_short_prefixes_are_not_shared(length, shared):
    assert prefixes_of([answering(SYSTEM[:length], [1]), answering(SYSTEM[:length], [2])])[0] == shared


def test_a_short_segment_between_two_prefixes_is_left_out():
    """Of the segments that end at 10, 13 and 20, the second has three tokens."""
    examples = [
        answering([*SYSTEM[:10], 1, 1], [1]),
        answering([*SYSTEM[:13], 2, 2], [1]),
        answering([*SYSTEM, 3, 3], [1]),
        answering([*SYSTEM, 4, 4], [1]),
    ]
    assert prefixes_of(examples) == ([10, 20], [-1, 0], [0, 0, 1, 1])


def test_ids_above_one_and_two_bytes_are_distinguished():
    """Ids are compared as bytes: 256 and 1 must differ, and so must 65536 and 1."""
    heads = [[first] * 12 for first in (1, 256, 65536, 16777216, 257)]
    assert prefixes_of([answering(head, [1]) for head in heads + heads]) == ([11] * 5, [-1] * 5, [0, 1, 3, 4, 2] * 2)


def test_an_example_without_a_trained_id_shares_nothing():
    untrained = tokens([*SYSTEM, 1], [0] * 21)
    assert prefixes_of([untrained, answering(SYSTEM, [1]), untrained]) == ([], [], [-1, -1, -1])


def test_restrict_keeps_segments_with_two_continuations():
    forest = PrefixForest((10, 20, 30), (-1, 0, 1), (0, 2, 2, 1, -1))
    assert forest.restrict([1, 2]) == PrefixForest((30,), (-1,), (0, 0))
    assert forest.restrict([3, 4, 2]) == PrefixForest((20,), (-1,), (0, -1, 0))
    assert forest.restrict([0, 1, 2]) == PrefixForest((10, 30), (-1, 0), (0, 1, 1))
    assert forest.restrict([1]) == PrefixForest((), (), (-1,))
    assert forest.restrict([]) == PrefixForest((), (), ())


@settings(max_examples=examples(300))
@given(families(), st.data())
def test_a_batch_with_sharing_predicts_each_example_as_if_alone(examples, data):
    """Ids, positions, targets and weights are equal for every selection and order of the examples."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shared_prefixes, "MIN_SHARED_TOKENS", data.draw(st.integers(1, 4)))
        forest = find_shared_prefixes(examples)
    chosen = data.draw(st.permutations(range(len(examples)))).copy()[: data.draw(st.integers(1, len(examples)))]
    selected = [examples[index] for index in chosen]
    batch = collate(selected, Reduction.token, prefixes=forest.restrict(chosen))

    assert predictions(batch) == expected(selected)
    lengths = [int(places[-1]) + 1 if len(places) else 0 for places in map(target_positions, examples)]
    assert batch.input_ids.shape[1] == max(1, forest.num_computed_tokens(chosen, lengths))
    read = batch.documents.read_positions
    assert (read.tolist() if read is not None else []) == sorted(set(batch.target_at.tolist()))
    assert torch.equal(batch.positions, batch.documents.positions)


@settings(max_examples=examples(200))
@given(families())
def test_all_common_prefixes_are_shared(examples):
    """If segments may have one token, a row contains each distinct prefix without a loss once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shared_prefixes, "MIN_SHARED_TOKENS", 1)
        forest = find_shared_prefixes(examples)
    heads, rest = set(), 0
    for example in examples:
        places = target_positions(example)
        if len(places):
            heads |= {tuple(example.input_ids[: t + 1].tolist()) for t in range(places[0])}
            rest += int(places[-1]) + 1 - int(places[0])
    lengths = [int(places[-1]) + 1 if len(places) else 0 for places in map(target_positions, examples)]
    assert forest.num_computed_tokens(range(len(examples)), lengths) == len(heads) + rest


@settings(max_examples=examples(100))
@given(families(), st.integers(12, 60), st.integers(1, 3), st.sampled_from(list(Choice)))
def test_a_step_with_sharing_has_every_example_within_the_limit(examples, budget, ranks, share):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(shared_prefixes, "MIN_SHARED_TOKENS", 2)
        plan = plan_micro_batches(examples, max_tokens=budget, world_size=ranks, share_prefixes=share)
    assert sorted(index for rank in plan.partition for row in rank for index in row) == list(range(len(examples)))
    tokens_of_rows = 0
    for row in (row for rank in plan.partition for row in rank):
        selected = [examples[index] for index in row]
        batch = collate(
            selected, Reduction.token, prefixes=None if plan.prefixes is None else plan.prefixes.restrict(row)
        )
        assert predictions(batch) == expected(selected)
        size, keys = batch.input_ids.shape[1], int(batch.documents.cu_keys[-1])
        assert keys <= MAX_KEYS_PER_TOKEN * budget or len(selected) == 1
        assert size <= budget or len([example for example in selected if len(target_positions(example))]) == 1
        tokens_of_rows += size
    assert tokens_of_rows == plan.computed_tokens


def step_of(prompt: int) -> list:
    """Return ten examples of 101 ids, of which 100 are computed, with the same first ``prompt`` ids."""
    generator = np.random.default_rng(0)
    return [
        answering([*range(prompt), *generator.integers(300, 999, 80 - prompt)], generator.integers(300, 999, 21))
        for _ in range(10)
    ]


@pytest.mark.parametrize(
    ("prompt", "share", "computed"),
    [
        pytest.param(50, Choice.never, 1000, id="never"),
        pytest.param(50, Choice.auto, 600, id="one-copy-in-each-of-two-rows"),
        pytest.param(8, Choice.auto, 936, id="enough"),
        pytest.param(4, Choice.auto, 1000, id="too-short"),
        pytest.param(4, Choice.always, 1000, id="too-short-for-a-segment"),
    ],
)
def test_sharing_is_chosen_by_the_saved_tokens(prompt, share, computed):
    """Auto shares if this saves 50 of 1,000 tokens; two rows of five examples save eight prompts."""
    assert plan_micro_batches(step_of(prompt), max_tokens=512, share_prefixes=share).computed_tokens == computed


def test_auto_does_not_share_for_less_than_a_twentieth():
    """Sharing between two of ten examples saves 30 of 1,000 tokens."""
    others = [answering(range(k, k + 80), range(21)) for k in range(1000, 1800, 100)]
    step = [*step_of(30)[:2], *others]
    assert plan_micro_batches(step, max_tokens=512, share_prefixes=Choice.always).computed_tokens == 970
    assert plan_micro_batches(step, max_tokens=512, share_prefixes=Choice.auto).computed_tokens == 1000


def test_examples_with_a_common_prefix_are_in_one_row():
    """Three shuffled groups of examples: each prefix is computed once, in one row and in three."""
    step = [answering([*range(100 * k, 100 * k + 60), i, i + 1], range(10)) for i in range(4) for k in range(3)]
    plan = plan_micro_batches(step, max_tokens=150, share_prefixes=Choice.always)
    assert sorted(plan.partition[0]) == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert plan.computed_tokens == 3 * (60 + 4 * 11)


def test_one_example_per_row_shares_nothing():
    plan = plan_micro_batches(step_of(50), max_tokens=0, share_prefixes=Choice.always)
    assert (plan.prefixes, plan.computed_tokens, len(plan.partition[0])) == (None, 1000, 10)


def test_keys_of_a_row_are_limited():
    """100 examples of three tokens attend to a prefix of 400: one row of 700 tokens would gather 40,700 keys."""
    step = [answering([*range(400), i], [1, 2, 3]) for i in range(100)]
    plan = plan_micro_batches(step, max_tokens=1000, share_prefixes=Choice.auto)
    rows = [[step[index] for index in row] for row in plan.partition[0]]
    keys = [
        int(collate(selected, Reduction.token, prefixes=plan.prefixes.restrict(row)).documents.cu_keys[-1])
        for row, selected in zip(plan.partition[0], rows, strict=True)
    ]

    assert max(keys) <= MAX_KEYS_PER_TOKEN * 1000
    assert len(rows) == 6
    assert keys_per_token(step, 1000, Choice.auto) == max(keys) / 1000
    assert keys_per_token(step, 1000, Choice.never) == 1
    assert plan.computed_tokens == 6 * 400 + 100 * 3


def test_prefixes_of_examples_in_different_rows_are_not_shared():
    """Two examples of 100 tokens have the first 50 in common and are in rows of 120."""
    plan = plan_micro_batches(step_of(50)[:2], max_tokens=120, share_prefixes=Choice.auto)
    assert (plan.prefixes, plan.computed_tokens) == (None, 200)
