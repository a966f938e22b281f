"""Which examples make an optimizer step: the seed's choice, and nothing else's."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run.

    Attributes:
        num_examples: Training examples.
        examples_per_step: Examples of one step; the last step of an epoch takes what is left.
        num_steps: Optimizer steps of the whole run.
        seed: Decides every epoch's order.
    """

    num_examples: int
    examples_per_step: int
    num_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the examples."""
        return -(-self.num_examples // self.examples_per_step)

    def epoch(self, step: int) -> int:
        """The pass (from 0) that step ``step`` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether step ``step`` (from 0) is the last one of its epoch, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.num_steps

    def examples(self, step: int) -> list[int]:
        """Indices of the examples of step ``step`` (from 0): consecutive in the epoch's seeded order."""
        order = np.random.default_rng([self.seed, self.epoch(step)]).permutation(self.num_examples)
        first = step % self.steps_per_epoch * self.examples_per_step
        return order[first : first + self.examples_per_step].tolist()


def plan(num_examples: int, examples_per_step: int, epochs: int, max_steps: int | None, seed: int) -> Plan:
    """The plan for ``epochs`` passes, cut after ``max_steps`` steps; more steps than the epochs hold add passes."""
    per_epoch = -(-num_examples // examples_per_step)
    return Plan(num_examples, examples_per_step, max_steps or per_epoch * epochs, seed)
