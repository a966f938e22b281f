"""Select the examples of each optimizer step, by the seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import Order
from sft_cli.data.mixing.curriculum import Stage


@dataclass(frozen=True, eq=False, slots=True)
class StepPlan:
    """The steps of a run: consecutive examples of an epoch, which is its stages one after another.

    A step may begin in one stage and end in the next. The examples that one conversation was unrolled to stay together
    in a random stage, as the turns of a conversation that was not unrolled do: their prefix is computed once.

    Attributes:
        stages: The stages of every epoch.
        examples_per_step: Examples of one step; the last step of an epoch takes the remaining ones.
        num_steps: Optimizer steps of the whole run.
        seed: Decides the order of every epoch's random stages.
        unrolled: ``(training examples,)``: which are a further answer of the example before; None: none.
    """

    stages: tuple[Stage, ...]
    examples_per_step: int
    num_steps: int
    seed: int
    unrolled: NDArray[np.bool_] | None = None

    @property
    def num_examples(self) -> int:
        """Examples of an epoch, repeated ones counted each time."""
        return sum(len(stage.entries) for stage in self.stages)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.num_examples // self.examples_per_step)

    def epoch_of(self, step: int) -> int:
        """Return the epoch (from 0) of step ``step`` (from 0)."""
        return step // self.steps_per_epoch

    def is_epoch_end(self, step: int) -> bool:
        """Return whether step ``step`` (from 0) is the last one of its epoch, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.num_steps

    def examples(self, step: int) -> list[int]:
        """Return the indices of the examples of step ``step`` (from 0): consecutive in the epoch's seeded order."""
        first = step % self.steps_per_epoch * self.examples_per_step
        return _epoch_order(self, self.epoch_of(step))[first : first + self.examples_per_step].tolist()


@lru_cache(maxsize=1)
def _epoch_order(plan: StepPlan, epoch: int) -> NDArray[np.int64]:
    """Return ``(examples,)``: the examples of an epoch in order; the last epoch is cached for the steps' slices."""
    parts = []
    for number, stage in enumerate(plan.stages):
        if stage.order is Order.random:
            starts = _row_starts(stage.entries, plan.unrolled)
            shuffle = np.random.default_rng([plan.seed, epoch, number]).permutation(len(starts))
            ends = np.append(starts[1:], len(stage.entries))
            lengths = (ends - starts)[shuffle]
            within = np.arange(len(stage.entries)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            parts.append(stage.entries[np.repeat(starts[shuffle], lengths) + within])
        else:
            parts.append(stage.entries)
    return np.concatenate(parts)


def _row_starts(entries: NDArray[np.int64], unrolled: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Return the indices in ``entries`` at which a row begins; each copy of a row has its own."""
    if unrolled is None:
        return np.arange(len(entries))
    follows = np.zeros(len(entries), np.bool_)
    follows[1:] = unrolled[entries[1:]] & (entries[1:] == entries[:-1] + 1)
    return np.flatnonzero(~follows)


def make_step_plan(
    stages: Sequence[Stage],
    examples_per_step: int,
    epochs: int,
    max_steps: int | None,
    seed: int,
    unrolled: NDArray[np.bool_] | None = None,
) -> StepPlan:
    """Plan ``epochs`` epochs, or ``max_steps`` steps, which may be fewer or more than the epochs hold.

    Args:
        stages: The stages of every epoch.
        examples_per_step: Examples of one step.
        epochs: Passes over the stages; without effect where ``max_steps`` is given.
        max_steps: Optimizer steps of the run; None: those of the epochs.
        seed: See ``StepPlan``.
        unrolled: See ``StepPlan``.
    """
    plan = StepPlan(tuple(stages), examples_per_step, 0, seed)
    return StepPlan(plan.stages, examples_per_step, max_steps or plan.steps_per_epoch * epochs, seed, unrolled)
