"""Products with frozen 8-bit weights in which the result for a token does not depend on other tokens.

On CUDA bitsandbytes multiplies as LLM.int8() does (arXiv:2208.07339): it rounds the inputs to 8 bits as well, except
the columns in which any token of the micro-batch exceeds a threshold. Documents in the same row then change each
other's rounding, and a layer synchronizes with the device to find the columns. Here the weights are dequantized for
each product, and again in the backward pass, as bitsandbytes does on a CPU: the inputs are not rounded, training
computes with the weights that merging writes, and all devices compute the same.
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
"""The code of a weight that is equal to the scale of its row."""


class Int8Product(torch.autograd.Function):
    """``x @ W.T + bias`` for frozen weights ``W = codes * scales / 127``; only the gradient of x exists."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``(…, out)`` in the compute dtype; only the stored weights are saved."""
        ctx.save_for_backward(codes, scales)
        ctx.kind = compute_dtype(x)
        bias = None if bias is None else bias.to(ctx.kind)
        return linear(x.to(ctx.kind), dequantize_rows(codes, scales, ctx.kind), bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient of x; autograd casts it to the dtype of x."""
        codes, scales = ctx.saved_tensors
        return gradient.to(ctx.kind) @ dequantize_rows(codes, scales, ctx.kind), None, None, None


def dequantize_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights ``(out, in)`` of int8 ``codes`` and float32 ``scales`` ``(out,)``, rounded once."""
    return codes.to(dtype).mul_(scales.unsqueeze(1) / MAX_CODE)


@dataclass(frozen=True)
class Int8Forward:
    """The ``forward`` of an 8-bit layer of bitsandbytes.

    Attributes:
        layer: The layer; its weight and scales are read on every call.
    """

    layer: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product of ``(…, in)``."""
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt

        layer = self.layer
        assert isinstance(layer, Linear8bitLt)
        assert isinstance(layer.weight, Int8Params)
        # The forward of bitsandbytes moves the scales from the weight to the layer's state.
        scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        return Int8Product.apply(x, layer.weight.data, scales, layer.bias)  # pyright: ignore[reportReturnType]


def replace_int8_products(model: nn.Module) -> int:
    """Replace the forward of every 8-bit layer of bitsandbytes and return the number of layers."""
    layers = quantized_layers(model)
    if not layers:
        return 0
    from bitsandbytes.nn.modules import Linear8bitLt

    int8_layers = [layer for layer in layers.values() if isinstance(layer, Linear8bitLt)]
    for layer in int8_layers:
        layer.forward = Int8Forward(layer)
    return len(int8_layers)
