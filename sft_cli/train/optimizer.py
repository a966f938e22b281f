"""AdamW and its learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from sft_cli.config.schema import OptimizerName, Schedule, TrainerConfig


def make_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer is OptimizerName.adamw:
        fused = all(p.device.type == "cuda" for p in trained)
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    kind = AdamW8bit if config.optimizer is OptimizerName.adamw_8bit else PagedAdamW8bit
    return kind(groups, lr=config.lr, betas=config.betas)


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainerConfig, num_steps: int) -> LambdaLR:
    """The schedule of transformers by that name; the warm-up takes ``warmup_ratio`` of the steps, rounded up.

    transformers warms up from 0, so that the first step would learn nothing: a warmed-up schedule begins one step on.
    """
    name = config.schedule.value
    extra = {}
    if config.schedule is Schedule.constant and config.warmup_ratio > 0:
        name = "constant_with_warmup"
    if config.schedule is Schedule.cosine_with_min_lr:
        extra = {"min_lr_rate": config.min_lr_ratio}
    if config.schedule is Schedule.polynomial:
        extra = {"lr_end": config.lr * config.min_lr_ratio, "power": 1.0}
    warmup = math.ceil(config.warmup_ratio * num_steps)
    ahead = 1 if warmup else 0
    schedule = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_steps + ahead,
        scheduler_specific_kwargs=extra,
    )
    assert isinstance(schedule, LambdaLR)
    return LambdaLR(optimizer, [lambda step, rate=rate: rate(step + ahead) for rate in schedule.lr_lambdas])


def trained_parameters(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Names and values of what is trained; a tied weight comes once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
