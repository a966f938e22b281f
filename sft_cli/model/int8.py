"""Products with frozen 8-bit weights, which depend on nothing but their own row.

On CUDA bitsandbytes multiplies as LLM.int8() does (arXiv:2208.07339): it rounds the inputs to 8 bits as well, except
the columns in which any token of the micro-batch exceeds a threshold. Documents that share a row then change each
other's rounding, and a layer waits for the device to find the columns. Here the weights are multiplied by their scales
for each product, and again in the backward pass, as bitsandbytes does on a CPU: the inputs are not rounded, training
computes with the weights that merging writes, and every device computes the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from sft_cli.model.device import compute_dtype
from sft_cli.model.quant import quantized_layers

MAX_CODE = 127
"""A row's scale is the weight that this code stands for."""


class Int8Product(torch.autograd.Function):
    """``x @ W.T + bias`` for frozen weights ``W = codes * scales / 127``; only the gradient of x exists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``(…, out)`` in the type of computation; nothing but the stored weights is saved."""
        ctx.save_for_backward(codes, scales)
        ctx.kind = compute_dtype(x)
        bias = None if bias is None else bias.to(ctx.kind)
        return linear(x.to(ctx.kind), dequantize_rows(codes, scales, ctx.kind), bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient of x; autograd casts it to the type of x."""
        codes, scales = ctx.saved_tensors
        return gradient.to(ctx.kind) @ dequantize_rows(codes, scales, ctx.kind), None, None, None


def dequantize_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights ``(out, in)`` of int8 ``codes`` and float32 ``scales`` ``(out,)``, rounded once."""
    return codes.to(dtype).mul_(scales.unsqueeze(1) / MAX_CODE)


@dataclass(frozen=True)
class Int8Forward:
    """The ``forward`` of one 8-bit layer of bitsandbytes.

    Attributes:
        layer: The layer; its weight and scales are read at every use.
    """

    layer: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product of ``(…, in)``."""
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt

        layer = self.layer
        assert isinstance(layer, Linear8bitLt)
        assert isinstance(layer.weight, Int8Params)
        # A forward of bitsandbytes moves the scales from the weight to the layer's state.
        scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        return Int8Product.apply(x, layer.weight.data, scales, layer.bias)  # pyright: ignore[reportReturnType]


def replace_int8_products(model: nn.Module) -> int:
    """Replace the forward of every 8-bit layer of bitsandbytes; return how many."""
    layers = quantized_layers(model)
    if not layers:
        return 0
    from bitsandbytes.nn.modules import Linear8bitLt

    found = [layer for layer in layers.values() if isinstance(layer, Linear8bitLt)]
    for layer in found:
        layer.forward = Int8Forward(layer)
    return len(found)
