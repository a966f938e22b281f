"""Gradient checkpointing: which decoder layers are computed again in the backward pass, and what they keep.

Every decoder layer of transformers that can be recomputed is a ``GradientCheckpointingLayer``; each is told by itself.
Checkpointing is without reentrance: a frozen embedding's output needs no gradient, so the first layer computes none
for its input.
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
from sft_cli.model.memory.offload import Offloader
from sft_cli.model.memory.saved_activations import decoder_layers
from sft_cli.model.quant import causal_lm

MARGIN = 0.1
"""Share of the free memory that is left alone, for what the estimate does not know."""
STEPS = 4
"""Equal steps from no recomputed layer to all of them, after running out of memory."""


@dataclass(frozen=True, slots=True)
class Recompute:
    """What is computed again in the backward pass.

    Attributes:
        mode: Anything but auto.
        layers: Number of recomputed decoder layers, the first ones: when the backward pass reaches them, the others'
            tensors are gone, so recomputing them needs no memory of its own.
        reason: Why, as a clause.
    """

    mode: Checkpointing
    layers: int
    reason: str

    def sentence(self) -> str:
        """What is recomputed and why, for the log."""
        what = {
            Checkpointing.none: "nothing",
            Checkpointing.selective: f"all {self.layers} decoder layers but their attention",
            Checkpointing.layers: f"the first {self.layers} decoder layers",
            Checkpointing.full: f"all {self.layers} decoder layers",
            Checkpointing.offload: f"all {self.layers} decoder layers, their inputs kept in main memory",
        }[self.mode]
        return f"recompute {what} ({self.reason})"


def choose(speed: SpeedConfig, needed: MemoryEstimate, free: int, device: torch.device) -> Recompute:
    """What ``speed.gradient_checkpointing`` means for this run.

    ``auto`` recomputes as few layers as fit; a frozen base then needs 4 instead of 6 FLOPs per parameter and token.

    Args:
        speed: Its keys gradient_checkpointing and checkpointed_layers.
        needed: The estimate of a step's memory; its weights are not loaded yet.
        free: Bytes free on the device.
        device: Where the model computes; only CUDA devices have a main memory beside their own.
    """
    asked, total = speed.gradient_checkpointing, needed.num_layers
    if asked is not Checkpointing.auto:
        layers = total if speed.checkpointed_layers is None else min(speed.checkpointed_layers, total)
        return Recompute(asked, 0 if asked is Checkpointing.none else layers, "as asked for")
    room = int(free * (1 - MARGIN))
    if not total:
        return Recompute(Checkpointing.none, 0, "the layers of this family cannot be")
    for layers in range(total + 1):
        mode = _mode(layers, total)
        size, space = _activations(needed, mode, layers, room)
        if size <= space:
            return Recompute(mode, layers, f"{gib(size)} of activations, {gib(max(space, 0))} for them")
    mode = Checkpointing.offload if device.type == "cuda" else Checkpointing.full
    size, space = _activations(needed, mode, total, room)
    return Recompute(mode, total, f"{gib(size)} of activations are more than the {gib(max(space, 0))} for them")


def _activations(needed: MemoryEstimate, mode: Checkpointing, layers: int, room: int) -> tuple[int, int]:
    """Bytes of the activations, and what everything else leaves of the room for them."""
    size = needed.activations(mode, layers)
    return size, room - (needed.total(mode, layers) - size)


def more(recompute: Recompute, num_layers: int, device: torch.device) -> Recompute | None:
    """The next step up after running out of memory; None when there is none.

    None, a quarter, half and three quarters of the layers, all of them, then their inputs in main memory on CUDA.
    """
    if recompute.mode is Checkpointing.offload:
        return None
    why = "memory ran out"
    if recompute.mode is Checkpointing.full:
        return Recompute(Checkpointing.offload, num_layers, why) if device.type == "cuda" else None
    if recompute.mode is Checkpointing.selective:
        return Recompute(Checkpointing.full, num_layers, why)
    layers = min(num_layers, recompute.layers + -(-num_layers // STEPS))
    return Recompute(_mode(layers, num_layers), layers, why)


def _mode(layers: int, total: int) -> Checkpointing:
    """The name of recomputing so many layers."""
    if layers == total:
        return Checkpointing.full
    return Checkpointing.layers if layers else Checkpointing.none


def apply(model: nn.Module, recompute: Recompute) -> None:
    """Tell every decoder layer what to do in training mode; a second call replaces the first.

    Raises:
        SftError: The family's layers cannot be recomputed.
    """
    layers = decoder_layers(model)
    if not layers and recompute.mode is not Checkpointing.none:
        raise SftError(
            where=f"speed.gradient_checkpointing={recompute.mode.value}",
            problem=f"the layers of {type(causal_lm(model)).__name__} cannot be recomputed in the backward pass",
            fix="speed.gradient_checkpointing=none, with a smaller speed.tokens_per_micro_batch",
        )
    functions = _functions(recompute.mode, causal_lm(model).device, len(layers))
    for place, (layer, function) in enumerate(zip(layers, functions, strict=True)):
        layer.gradient_checkpointing = place < recompute.layers
        vars(layer)["_gradient_checkpointing_func"] = function


def _functions(mode: Checkpointing, device: torch.device, number: int) -> list[Callable[..., Any]]:
    """How each layer is run: a function of the layer's forward and its arguments."""
    plain = functools.partial(checkpoint, use_reentrant=False)
    if mode is Checkpointing.selective:
        keep = functools.partial(create_selective_checkpoint_contexts, attention_kernels(device))
        return [functools.partial(plain, context_fn=keep)] * number
    if mode is Checkpointing.offload:
        offloader = Offloader(device)
        # The backward pass begins with the last layer: its input would come back before it had gone.
        return [functools.partial(offloader.checkpoint, place) for place in range(number - 1)] + [plain]
    return [plain] * number


def attention_kernels(device: torch.device) -> list[Any]:
    """The fused attention operations of torch: their outputs are kept, and all else is computed again.

    Attention written as matrix products (capped scores) is computed again too: its weights are what is large.
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
