"""Gradient checkpointing: choose the decoder layers that are recomputed in the backward pass, and apply the choice.

Every decoder layer of transformers that can be recomputed is a ``GradientCheckpointingLayer``; each one is set
separately. Checkpointing is non-reentrant, because the input of the first layer is the output of a frozen embedding,
which needs no gradient.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.console import gib
from sft_cli.errors import SftError
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.layer_memory import decoder_layers
from sft_cli.model.memory.offload import Offloader
from sft_cli.model.quant import causal_lm

MEMORY_MARGIN = 0.1
"""Fraction of the free memory that stays unused, as a margin for the error of the estimate."""
LEVELS = 4
"""Number of equal steps from no recomputed layer to all of them, after running out of memory."""


@dataclass(frozen=True, slots=True)
class CheckpointingPlan:
    """The layers that are recomputed in the backward pass.

    Attributes:
        mode: Any mode but auto.
        layers: Number of recomputed decoder layers, the first ones: when the backward pass reaches them, the tensors of
            the others are freed, so that recomputing them needs no additional memory.
        reason: The reason, as a clause.
    """

    mode: Checkpointing
    layers: int
    reason: str

    def describe(self) -> str:
        """Describe the plan and its reason, for the log."""
        recomputed = {
            Checkpointing.none: "nothing",
            Checkpointing.selective: f"all {self.layers} decoder layers except their attention",
            Checkpointing.layers: f"the first {self.layers} decoder layers",
            Checkpointing.full: f"all {self.layers} decoder layers",
            Checkpointing.offload: f"all {self.layers} decoder layers, their inputs kept in main memory",
        }[self.mode]
        return f"recompute {recomputed} ({self.reason})"


def choose_checkpointing(
    speed: SpeedConfig, needed: MemoryEstimate, free: int, device: torch.device
) -> CheckpointingPlan:
    """Return the plan for ``speed.gradient_checkpointing``.

    ``auto`` recomputes as few layers as possible: with a frozen base, recomputing costs 6 instead of 4 FLOPs per
    parameter and token.

    Args:
        speed: The keys gradient_checkpointing and checkpointed_layers are read.
        needed: The estimate of a step's memory; the weights are not loaded yet.
        free: Free bytes of the device.
        device: The device of the model; activations can move to main memory only on CUDA.
    """
    requested, total = speed.gradient_checkpointing, needed.num_layers
    if requested is not Checkpointing.auto:
        layers = total if speed.checkpointed_layers is None else min(speed.checkpointed_layers, total)
        return CheckpointingPlan(requested, 0 if requested is Checkpointing.none else layers, "as configured")
    budget = int(free * (1 - MEMORY_MARGIN))
    if not total:
        return CheckpointingPlan(Checkpointing.none, 0, "the layers of this family cannot be recomputed")
    if needed.saved.unknown:
        return CheckpointingPlan(Checkpointing.none, 0, "more if memory runs out: activations are not known")
    for layers in range(total + 1):
        mode = _mode(layers, total)
        needed_bytes, available = _activation_bytes(needed, mode, layers, budget)
        if needed_bytes <= available:
            return CheckpointingPlan(
                mode, layers, f"activations need {gib(needed_bytes)} of {gib(max(available, 0))} available"
            )
    mode = Checkpointing.offload if device.type == "cuda" else Checkpointing.full
    needed_bytes, available = _activation_bytes(needed, mode, total, budget)
    return CheckpointingPlan(
        mode, total, f"activations need {gib(needed_bytes)}, more than the {gib(max(available, 0))} available"
    )


def _activation_bytes(needed: MemoryEstimate, mode: Checkpointing, layers: int, budget: int) -> tuple[int, int]:
    """Return the bytes of the activations, and the part of the budget left for them."""
    needed_bytes = needed.activations(mode, layers)
    return needed_bytes, budget - (needed.total(mode, layers) - needed_bytes)


def next_checkpointing_level(
    plan: CheckpointingPlan, num_layers: int, device: torch.device
) -> CheckpointingPlan | None:
    """Return the next plan after running out of memory, or None.

    The levels are none, a quarter, half and three quarters of the layers, all of them, then offloading their inputs on
    CUDA.
    """
    if plan.mode is Checkpointing.offload:
        return None
    reason = "memory ran out"
    if plan.mode is Checkpointing.full:
        return CheckpointingPlan(Checkpointing.offload, num_layers, reason) if device.type == "cuda" else None
    if plan.mode is Checkpointing.selective:
        return CheckpointingPlan(Checkpointing.full, num_layers, reason)
    layers = min(num_layers, plan.layers + -(-num_layers // LEVELS))
    return CheckpointingPlan(_mode(layers, num_layers), layers, reason)


def _mode(layers: int, total: int) -> Checkpointing:
    """Return the mode that recomputes this number of layers."""
    if layers == total:
        return Checkpointing.full
    return Checkpointing.layers if layers else Checkpointing.none


def apply_checkpointing(model: nn.Module, plan: CheckpointingPlan) -> None:
    """Set how every decoder layer runs in training mode; a second call replaces the first.

    Raises:
        SftError: The family's layers cannot be recomputed.
    """
    layers = decoder_layers(model)
    if not layers and plan.mode is not Checkpointing.none:
        raise SftError(
            where=f"speed.gradient_checkpointing={plan.mode.value}",
            problem=f"the layers of {type(causal_lm(model)).__name__} cannot be recomputed in the backward pass",
            fix="speed.gradient_checkpointing=none, with a smaller speed.tokens_per_micro_batch",
        )
    functions = _layer_functions(plan.mode, causal_lm(model).device, len(layers))
    for index, (layer, function) in enumerate(zip(layers, functions, strict=True)):
        layer.gradient_checkpointing = index < plan.layers
        vars(layer)["_gradient_checkpointing_func"] = function


def _layer_functions(mode: Checkpointing, device: torch.device, number: int) -> list[Callable[..., Any]]:
    """Return the function that runs each layer, given the layer's forward and its arguments."""
    plain = functools.partial(checkpoint, use_reentrant=False)
    if mode is Checkpointing.selective:
        keep = functools.partial(create_selective_checkpoint_contexts, fused_attention_ops(device))
        return [functools.partial(plain, context_fn=keep)] * number
    if mode is Checkpointing.offload:
        offloader = Offloader(device)
        # The backward pass starts with the last layer: its input would be fetched before it was sent.
        return [functools.partial(offloader.checkpoint, index) for index in range(number - 1)] + [plain]
    return [plain] * number


def fused_attention_ops(device: torch.device) -> list[Any]:
    """Return torch's fused attention operations: their outputs are saved, and everything else is recomputed.

    Attention written as matrix products (soft-capped scores) is recomputed too, because its weights are large.
    """
    if device.type == "cuda":
        importlib.import_module("torch.nn.attention.varlen")  # registers its operation

        return [
            torch.ops.torch_attn._varlen_attn.default,
            torch.ops.aten._scaled_dot_product_flash_attention.default,
            torch.ops.aten._scaled_dot_product_efficient_attention.default,
            torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        ]
    return [torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default]
