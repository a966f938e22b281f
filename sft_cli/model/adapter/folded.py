"""Add LoRA updates to the base weights for a while, so that generation has one product per layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

MAX_BYTES = 2**30
"""Most bytes of adapted weights that are copied; in larger layers an adapter is a small part of the work."""


@contextmanager
def folded_adapter(model: nn.Module) -> Iterator[bool]:
    """Add the LoRA updates to the base weights; afterwards put the same tensors back, unchanged to the last bit.

    Done only where it is exact up to the rounding of float32: every adapted layer is a plain linear layer in float32
    with PEFT's own forward. Weights in 16 bits would round the update, and quantized ones cannot hold it. It takes
    the memory of the adapted weights once more, at most ``MAX_BYTES``.

    Yields:
        Whether the updates are in the weights.
    """
    layers = _foldable(model)
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for layer in layers:
            weight = layer.get_base_layer().weight
            assert isinstance(weight, nn.Parameter)
            kept.append((weight, weight.data))
            weight.data = weight.data.clone()
            with torch.no_grad():
                layer.merge()
        yield bool(layers)
    finally:
        for weight, original in kept:
            weight.data = original
        for layer in layers:
            layer.merged_adapters.clear()


def _foldable(model: nn.Module) -> list[LoraLinear]:
    """Return the adapted layers; none if one of them cannot be folded."""
    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    weights = [layer.get_base_layer().weight for layer in layers]
    unique = {id(weight) for weight in weights}
    possible = (
        len(layers) == len(adapted) == len(unique)
        and all(_is_plain(layer) for layer in layers)
        and all(isinstance(one, nn.Parameter) and one.dtype == torch.float32 for one in weights)
        and not any(isinstance(one.data, DTensor) for one in weights)
        and sum(one.nbytes for one in weights if isinstance(one, nn.Parameter)) <= MAX_BYTES
    )
    if not possible:
        return []
    return layers


def _is_plain(layer: LoraLinear) -> bool:
    """Return whether the layer has PEFT's own forward and a plain LoRA update of its weight alone."""
    base = layer.get_base_layer()
    return (
        type(layer) is LoraLinear
        and type(base) is nn.Linear
        and "forward" not in vars(layer)
        and "forward" not in vars(base)
        and not layer.merged
        and not layer.disable_adapters
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )
