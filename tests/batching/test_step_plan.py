"""Stages, seed and examples_per_step alone decide the examples of a step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.batching.step_plan import StepPlan, make_step_plan
from sft_cli.config.schema.data import Order
from sft_cli.data.mixing.curriculum import Stage

EASY = Stage("easy", Order.by_length, np.array([4, 2, 2]))
MIXED = Stage("mixed", Order.random, np.array([0, 1, 1, 3, 5, 6, 7, 8]))
LAST = Stage("last", Order.random, np.array([0, 1, 1, 3, 5, 6, 7, 8]))


def whole(num_examples: int) -> Stage:
    """Return a stage with every example once in random order, the default of preparation."""
    return Stage("1", Order.random, np.arange(num_examples))


def order(steps: StepPlan, epoch: int = 0) -> list[int]:
    """Return the examples of an epoch in the order of its steps."""
    return [i for s in range(steps.num_steps) if steps.epoch_of(s) == epoch for i in steps.examples(s)]


def test_steps_of_two_epochs_by_hand():
    steps = make_step_plan([whole(5)], examples_per_step=2, epochs=2, max_steps=None, seed=0)

    assert steps.num_steps == 6
    assert [steps.epoch_of(s) for s in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [steps.is_epoch_end(s) for s in range(6)] == [False, False, True, False, False, True]
    assert [len(steps.examples(s)) for s in range(6)] == [2, 2, 1, 2, 2, 1]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_epoch_has_every_example_once(num_examples, per_step, seed):
    steps = make_step_plan([whole(num_examples)], per_step, epochs=2, max_steps=None, seed=seed)
    for epoch in range(2):
        assert sorted(order(steps, epoch)) == list(range(num_examples))


def test_one_random_stage_is_the_permutation_of_seed_and_epoch():
    """Runs of versions without stages keep their order, so that they can be resumed."""
    steps = make_step_plan([whole(50)], 7, epochs=3, max_steps=None, seed=42)
    for epoch in range(3):
        assert order(steps, epoch) == np.random.default_rng([42, epoch]).permutation(50).tolist()


def test_the_answers_of_an_unrolled_conversation_stay_adjacent():
    """Examples 1 to 3 are one conversation, 5 and 6 another; the stage has the first conversation twice."""
    unrolled = np.array([0, 0, 1, 1, 0, 0, 1], np.bool_)
    stage = Stage("1", Order.random, np.array([0, 1, 2, 3, 1, 2, 3, 4, 5, 6]))
    seen = set()
    for seed in range(20):
        taken = order(make_step_plan([stage], 4, epochs=1, max_steps=None, seed=seed, unrolled=unrolled))
        assert sorted(taken) == sorted(stage.entries.tolist())
        text = "".join(map(str, taken))
        assert text.count("123") == 2
        assert text.count("56") == 1
        seen.add(text)
    assert len(seen) > 10


def test_without_unrolled_conversations_the_order_is_unchanged():
    none = np.zeros(50, np.bool_)
    steps, before = make_step_plan([whole(50)], 7, 1, None, 42, none), make_step_plan([whole(50)], 7, 1, None, 42)
    assert order(steps) == order(before)


def test_stages_follow_one_another_and_sorted_ones_keep_their_order():
    steps = make_step_plan([EASY, MIXED, LAST], examples_per_step=5, epochs=2, max_steps=None, seed=0)
    assert steps.num_examples == 19
    assert steps.steps_per_epoch == 4
    assert steps.examples(0)[:3] == [4, 2, 2]
    for epoch in range(2):
        taken = order(steps, epoch)
        assert taken[:3] == [4, 2, 2]
        assert sorted(taken[3:11]) == sorted(taken[11:]) == MIXED.entries.tolist()


def test_random_stages_and_epochs_differ_in_their_order():
    steps = make_step_plan([MIXED, LAST], examples_per_step=16, epochs=2, max_steps=None, seed=0)
    halves = [tuple(order(steps, epoch)[start : start + 8]) for epoch in range(2) for start in (0, 8)]
    assert len(set(halves)) == 4


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 7))
def test_a_step_does_not_depend_on_earlier_calls(asked, per_step):
    steps = make_step_plan([EASY, MIXED], per_step, epochs=20, max_steps=None, seed=3)
    fresh = [
        make_step_plan([EASY, MIXED], per_step, epochs=20, max_steps=None, seed=3).examples(step) for step in asked
    ]
    assert [steps.examples(step) for step in asked] == fresh


def test_an_epoch_is_permuted_once():
    """With a million examples in a hundred thousand steps, a permutation per step would take half an hour."""
    steps = make_step_plan([whole(1_000_000)], 10, epochs=1, max_steps=None, seed=0)
    assert len({i for s in range(0, 100_000, 50) for i in steps.examples(s)}) == 20_000


def test_epochs_differ_and_seeds_differ():
    first, other = make_step_plan([whole(50)], 50, 2, None, seed=1), make_step_plan([whole(50)], 50, 2, None, seed=2)
    assert len({tuple(first.examples(0)), tuple(first.examples(1)), tuple(other.examples(0))}) == 3


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 3), (2, 2), (7, 7)])
def test_max_steps_cuts_or_extends(max_steps, steps):
    assert make_step_plan([whole(10)], 4, epochs=1, max_steps=max_steps, seed=0).num_steps == steps
