"""Several LoRA layers that read the same input, computed and differentiated together.

PEFT computes each layer separately: it casts the input to float32 for every A (unless autocast is on), keeps a copy for
each, and adds the update as a separate tensor. Here the input is kept once, all A matrices are applied in one product,
and the updates are added in place.

Shapes: T tokens, I inputs, O outputs of a layer, r its rank, R sum of the ranks of all layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from sft_cli.model.quant import is_repacked
from sft_cli.model.speed.rms_norm import NormInput, normalize


@dataclass
class BaseLayer:
    """The frozen layer inside a LoRA layer: a linear layer, GPT-2's Conv1D, or a 4-bit layer.

    Attributes:
        layer: The layer; its ``weight`` and ``bias`` are read on every call, because sharding replaces them.
        transposed: Whether its weight is stored as ``(I, O)``.
        cached_weight: The weight as converted by a recomputation, for the backward pass that follows.
    """

    layer: nn.Module
    transposed: bool
    cached_weight: Tensor | None = None

    def usable_weight(self, dtype: torch.dtype) -> Tensor | None:
        """Return the ``(O, I)`` weight if it can be used as it is; None if it has to be converted."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        if is_4bit(weight) or weight.dtype != dtype:
            return None
        return weight.t() if self.transposed else weight

    def convert_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the ``(O, I)`` weight, dequantized or cast."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        if is_4bit(weight):
            from bitsandbytes.functional import dequantize_4bit

            state = vars(weight)["quant_state"]
            assert not is_repacked(weight), "a 4-bit weight was repacked by an evaluation"
            return dequantize_4bit(weight.data, state).to(dtype)
        return (weight.t() if self.transposed else weight).to(dtype)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """Return the ``(O,)`` bias, or None."""
        bias = self.layer.bias
        return bias.to(dtype) if isinstance(bias, Tensor) else None

    def for_backward(self, dtype: torch.dtype) -> Tensor:
        """Return the weight as the recomputation has just converted it, or convert it again."""
        weight, self.cached_weight = self.cached_weight, None
        return self.convert_weight(dtype) if weight is None or weight.dtype != dtype else weight


def is_4bit(weight: Tensor) -> bool:
    """Return whether bitsandbytes stores the weight in 4 bits."""
    return "quant_state" in vars(weight)


def is_recomputing() -> bool:
    """Return whether a backward pass is running, as in the recomputation of a checkpointed layer."""
    return torch._C._current_graph_task_id() != -1


class FusedLoraFunction(torch.autograd.Function):
    """``y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T`` for every layer i; gradients for x, A and B.

    All products are in the dtype of x. A and B may have another dtype (float32 master weights), as their gradients do.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bases: Sequence[BaseLayer], scales: Sequence[float], *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        """Return ``(…, O_i)`` for x ``(…, I)``; ``matrices`` are all A ``(r_i, I)``, then all B ``(O_i, r_i)``.

        The output of a norm is not saved: the backward pass computes it again from the norm's input, which is saved.
        """
        ctx.set_materialize_grads(False)
        ctx.bases, ctx.scales = bases, scales
        outputs, saved = fused_forward(x, bases, scales, matrices, keep=ctx.needs_input_grad[0])
        norm = NormInput.of(x)
        ctx.norm = None if norm is None else (norm.eps, norm.offset)
        ctx.save_for_backward(*((x,) if norm is None else (norm.x, norm.weight)), *saved)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, and of each A and B; None for frozen tensors."""
        x, *saved = ctx.saved_tensors
        if ctx.norm is not None:
            weight, *saved = saved
            x = normalize(x, weight, *ctx.norm)
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        grad_x, grad_matrices = fused_backward(x, saved, ctx.bases, ctx.scales, gradients, needed)
        return grad_x, None, None, *grad_matrices


def fused_forward(
    x: Tensor, bases: Sequence[BaseLayer], scales: Sequence[float], matrices: Sequence[Tensor], *, keep: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Return the outputs of ``FusedLoraFunction``, and the tensors that ``fused_backward`` needs in addition to x.

    Args:
        x: ``(…, I)``.
        bases: The frozen layers.
        scales: The LoRA scales of the layers.
        matrices: All A, then all B.
        keep: Whether the gradient of x will be needed.
    """
    downs, ups = matrices[: len(bases)], matrices[len(bases) :]
    x_2d = x.reshape(-1, x.shape[-1])
    low_rank = x_2d @ stack_lora_a(downs, x.dtype).t()  # (T, R)
    weights, outputs = [], []
    for base, scale, up, own_low_rank in zip(bases, scales, ups, split_by_rank(low_rank, downs), strict=True):
        weight = base.usable_weight(x.dtype)
        weights.append(weight)
        if weight is None:
            weight = base.convert_weight(x.dtype)
            base.cached_weight = weight if keep and is_recomputing() else None
        output = linear(x_2d, weight, base.bias(x.dtype))
        output.addmm_(own_low_rank, scaled_lora_b(up, scale, x.dtype).t())
        # Not a view: some families change a layer's output in place, which autograd forbids for views of this function.
        outputs.append(torch.ops.aten._unsafe_view(output, (*x.shape[:-1], output.shape[-1])))
    return tuple(outputs), (low_rank, *matrices, *weights)


def fused_backward(
    x: Tensor,
    saved: Sequence[Any],
    bases: Sequence[BaseLayer],
    scales: Sequence[float],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradient of x, and those of each A and B.

    Args:
        x: ``(…, I)``.
        saved: The second result of ``fused_forward``.
        bases: The frozen layers.
        scales: The LoRA scales of the layers.
        gradients: The gradients of the outputs.
        needed: Whether the gradient of x, and of each A and B, is needed.
    """
    count = len(bases)
    low_rank, *rest = saved
    downs, ups, weights = rest[:count], rest[count : 2 * count], rest[2 * count :]
    dtype, x_2d = x.dtype, x.reshape(-1, x.shape[-1])
    grad_x: Tensor | None = None
    grad_inner: list[Tensor] = []
    grad_ups: list[Tensor | None] = []
    members = zip(
        bases, scales, ups, weights, split_by_rank(low_rank, downs), gradients, needed[1 + count :], strict=True
    )
    for base, scale, up, weight, own, gradient, needs_up in members:
        if gradient is None:
            grad_inner.append(torch.zeros_like(own))
            grad_ups.append(None)
            continue
        gradient = gradient.reshape(-1, gradient.shape[-1])
        grad_inner.append(gradient @ scaled_lora_b(up, scale, dtype))  # (T, r)
        # The narrow matrix is the left factor, because a product with a tall and narrow result is slower.
        grad_ups.append((own.t() @ gradient).t().to(up.dtype).mul_(scale).contiguous() if needs_up else None)
        if needed[0]:
            weight_used = base.for_backward(dtype) if weight is None else weight
            grad_x = gradient @ weight_used if grad_x is None else grad_x.addmm_(gradient, weight_used)
    grad_low_rank = grad_inner[0] if count == 1 else torch.cat(grad_inner, dim=1)  # (T, R)
    grad_downs: list[Tensor | None] = [None] * count
    if any(needed[1 : 1 + count]):
        own_rows = (grad_low_rank.t() @ x_2d).split([down.shape[0] for down in downs])
        grad_downs = [own.to(down.dtype) for own, down in zip(own_rows, downs, strict=True)]
    if grad_x is not None:
        grad_x = grad_x.addmm_(grad_low_rank, stack_lora_a(downs, dtype)).view(x.shape)
    return grad_x, [*grad_downs, *grad_ups]


def stack_lora_a(downs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return ``(R, I)``: all A matrices, stacked."""
    return (downs[0] if len(downs) == 1 else torch.cat(tuple(downs))).to(dtype)


def split_by_rank(low_rank: Tensor, downs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Split ``(T, R)`` into ``(T, r)`` for each layer."""
    return low_rank.split([down.shape[0] for down in downs], dim=1)


def scaled_lora_b(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return ``(O, r)``: B times its scale, rounded once."""
    return (up * scale).to(dtype)
