"""Which examples make an optimizer step: the seed's choice, and nothing else's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import Order
from sft_cli.data.mixing.curriculum import Stage


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """The steps of a run: consecutive examples of an epoch's order, which is that of its stages one after another.

    A step may begin in one stage and end in the next. The examples that one conversation was unrolled to stay together
    in a random stage, as its turns do in a conversation that was not: what they begin with is computed once.

    Attributes:
        stages: The stages of every epoch.
        examples_per_step: Examples of one step; the last step of an epoch takes what is left.
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
        """Optimizer steps of one pass over the stages."""
        return -(-self.num_examples // self.examples_per_step)

    def epoch(self, step: int) -> int:
        """The pass (from 0) that step ``step`` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether step ``step`` (from 0) is the last one of its epoch, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.num_steps

    def examples(self, step: int) -> list[int]:
        """Indices of the examples of step ``step`` (from 0): consecutive in the epoch's seeded order."""
        first = step % self.steps_per_epoch * self.examples_per_step
        return _order(self, self.epoch(step))[first : first + self.examples_per_step].tolist()


@lru_cache(maxsize=1)
def _order(plan: Plan, epoch: int) -> NDArray[np.int64]:
    """``(examples,)``: the examples of an epoch in order; the last answer is kept, because a step asks for a slice."""
    parts = []
    for number, stage in enumerate(plan.stages):
        if stage.order is Order.random:
            starts = _starts(stage.entries, plan.unrolled)
            shuffle = np.random.default_rng([plan.seed, epoch, number]).permutation(len(starts))
            ends = np.append(starts[1:], len(stage.entries))
            lengths = (ends - starts)[shuffle]
            within = np.arange(len(stage.entries)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            parts.append(stage.entries[np.repeat(starts[shuffle], lengths) + within])
        else:
            parts.append(stage.entries)
    return np.concatenate(parts)


def _starts(entries: NDArray[np.int64], unrolled: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """The places in ``entries`` where a row begins; a copy of a row begins anew."""
    if unrolled is None:
        return np.arange(len(entries))
    follows = np.zeros(len(entries), np.bool_)
    follows[1:] = unrolled[entries[1:]] & (entries[1:] == entries[:-1] + 1)
    return np.flatnonzero(~follows)


def plan(
    stages: Sequence[Stage],
    examples_per_step: int,
    epochs: int,
    max_steps: int | None,
    seed: int,
    unrolled: NDArray[np.bool_] | None = None,
) -> Plan:
    """The plan for ``epochs`` passes, cut after ``max_steps`` steps; more steps than the epochs hold add passes."""
    made = Plan(tuple(stages), examples_per_step, 0, seed)
    return Plan(made.stages, examples_per_step, max_steps or made.steps_per_epoch * epochs, seed, unrolled)
