"""Select the examples of each optimizer step; the selection depends only on the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import Order
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.data.mixing.curriculum import Stage
from sft_cli.data.prepared import PreparedData


@dataclass(frozen=True, eq=False, slots=True)
class StepPlan:
    """The steps of a run: consecutive examples of an epoch, which is its stages one after another.

    A step may begin in one stage and end in the next. If a conversation was unrolled into several examples, they stay
    adjacent in a random stage, so that their common prefix is computed once.

    Attributes:
        stages: The stages of every epoch.
        examples_per_step: Number of examples of a step; the last step of an epoch has the remaining ones.
        num_steps: Number of optimizer steps of the whole run.
        seed: The seed of the order in random stages.
        unrolled: ``(training examples,)`` bool: whether an example is a further answer of the conversation of the
            example before; None: none is.
    """

    stages: tuple[Stage, ...]
    examples_per_step: int
    num_steps: int
    seed: int
    unrolled: NDArray[np.bool_] | None = None

    @property
    def num_examples(self) -> int:
        """Number of examples of an epoch; repeated ones count each time."""
        return sum(len(stage.entries) for stage in self.stages)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps of an epoch."""
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
    """Return the indices ``(examples,)`` of an epoch in order; cached, because each step takes a slice of them."""
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


def plan_run(prepared: PreparedData, trainer: TrainerConfig) -> StepPlan:
    """Return the steps of a run over prepared data; the number of epochs and the size of a step are resolved."""
    return make_step_plan(
        prepared.stages,
        resolved(trainer.examples_per_step),
        resolved(trainer.epochs),
        trainer.max_steps,
        trainer.seed,
        prepared.train.unrolled(),
    )


def make_step_plan(
    stages: Sequence[Stage],
    examples_per_step: int,
    epochs: int,
    max_steps: int | None,
    seed: int,
    unrolled: NDArray[np.bool_] | None = None,
) -> StepPlan:
    """Plan ``epochs`` epochs, or ``max_steps`` steps, which may be fewer or more than those of the epochs.

    Args:
        stages: The stages of every epoch.
        examples_per_step: Number of examples of a step.
        epochs: Number of passes over the stages; without effect if ``max_steps`` is given.
        max_steps: Number of optimizer steps of the run; None: those of the epochs.
        seed: See ``StepPlan``.
        unrolled: See ``StepPlan``.
    """
    plan = StepPlan(tuple(stages), examples_per_step, 0, seed)
    return StepPlan(plan.stages, examples_per_step, max_steps or plan.steps_per_epoch * epochs, seed, unrolled)
