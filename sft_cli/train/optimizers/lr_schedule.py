"""Learning-rate schedules."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import Schedule, TrainerConfig


def make_lr_schedule(optimizer: torch.optim.Optimizer, config: TrainerConfig, num_steps: int) -> LambdaLR:
    """Make the schedule ``trainer.schedule`` of transformers; it scales the learning rate of every parameter group.

    The warm-up takes ``warmup_ratio`` of the steps, rounded up. In transformers it begins at 0 (wsd: at the minimum),
    and the first step would have no effect; so a schedule with warm-up is shifted by one step.
    """
    warmup = math.ceil(config.warmup_ratio * num_steps)
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
