"""Which examples make a step: decided by seed and examples_per_step alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.train.schedule import plan


def test_steps_of_two_epochs_by_hand():
    steps = plan(num_examples=5, examples_per_step=2, epochs=2, max_steps=None, seed=0)

    assert steps.num_steps == 6
    assert [steps.epoch(s) for s in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [steps.ends_epoch(s) for s in range(6)] == [False, False, True, False, False, True]
    assert [len(steps.examples(s)) for s in range(6)] == [2, 2, 1, 2, 2, 1]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_epoch_holds_every_example_once(num_examples, per_step, seed):
    steps = plan(num_examples, per_step, epochs=2, max_steps=None, seed=seed)
    for epoch in range(2):
        seen = [i for s in range(steps.num_steps) if steps.epoch(s) == epoch for i in steps.examples(s)]
        assert sorted(seen) == list(range(num_examples))


def test_epochs_differ_and_seeds_differ():
    first, other = plan(50, 50, 2, None, seed=1), plan(50, 50, 2, None, seed=2)
    assert len({tuple(first.examples(0)), tuple(first.examples(1)), tuple(other.examples(0))}) == 3


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 3), (2, 2), (7, 7)])
def test_max_steps_cuts_or_extends(max_steps, steps):
    assert plan(10, 4, epochs=1, max_steps=max_steps, seed=0).num_steps == steps
