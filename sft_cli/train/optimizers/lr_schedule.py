"""Learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import Schedule, TrainerConfig


@dataclass(frozen=True, slots=True)
class RunLength:
    """The optimizer steps of a whole run, and those of its warm-up, which stay the same if the run is extended."""

    num_steps: int
    warmup_steps: int


def planned_length(config: TrainerConfig, num_steps: int) -> RunLength:
    """Return the length of a new run: the warm-up takes ``warmup_ratio`` of the steps, rounded up."""
    return RunLength(num_steps, math.ceil(config.warmup_ratio * num_steps))


def lr_factors(config: TrainerConfig, length: RunLength, steps: int) -> list[float]:
    """Return the factors on the learning rate in the first ``steps`` steps."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=resolved(config.lr))
    (factor,) = make_lr_schedule(optimizer, config, length).lr_lambdas
    return [factor(step) for step in range(steps)]


def make_lr_schedule(optimizer: torch.optim.Optimizer, config: TrainerConfig, length: RunLength) -> LambdaLR:
    """Make the schedule ``trainer.schedule`` of transformers; it scales the learning rate of every parameter group.

    In transformers the warm-up begins at 0 (wsd: at the minimum), and the first step would have no effect; so a
    schedule with warm-up is shifted by one step.
    """
    num_steps, warmup = length.num_steps, length.warmup_steps
    shift = 1 if warmup else 0
    name, arguments = _scheduler_arguments(config, num_steps, warmup)
    schedule = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_steps + shift,
        scheduler_specific_kwargs=arguments,
    )
    assert isinstance(schedule, LambdaLR)
    return LambdaLR(optimizer, [lambda step, factor=factor: factor(step + shift) for factor in schedule.lr_lambdas])


def _scheduler_arguments(config: TrainerConfig, num_steps: int, warmup: int) -> tuple[str, dict[str, Any]]:
    """Return the name of the schedule in transformers, and its arguments apart from the numbers of steps."""
    match config.schedule:
        case Schedule.constant:
            return "constant_with_warmup" if warmup else "constant", {}
        case Schedule.cosine_with_min_lr:
            return config.schedule.value, {"min_lr_rate": config.min_lr_ratio}
        case Schedule.polynomial:
            return config.schedule.value, {"lr_end": resolved(config.lr) * config.min_lr_ratio, "power": 1.0}
        case Schedule.wsd:
            decay_steps = min(math.ceil(config.decay_ratio * num_steps), num_steps - warmup)
            floor = {"min_lr_ratio": config.min_lr_ratio, "decay_type": "linear"}
            return "warmup_stable_decay", {"num_decay_steps": decay_steps, **floor}
        case _:
            return config.schedule.value, {}
