"""Several LoRA layers that read the same input, computed and differentiated together.

PEFT computes each layer by itself: it casts the input to float32 for every A (unless autocast is on), keeps a copy of
it for each, and adds the update as a tensor of its own. Here the input is kept once, the A matrices are one product,
and the update is added in place.

Shapes: T tokens, I inputs, O outputs of a member, r its rank, R ranks of all members together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from sft_cli.model.quant import repacked


@dataclass
class Base:
    """The frozen layer under one member: a linear layer, GPT-2's Conv1D, or a 4-bit layer.

    Attributes:
        layer: The layer whose ``weight`` and ``bias`` are read at every use (sharding replaces them).
        turned: Its weight is stored ``(I, O)``.
        kept: A weight that was converted while a layer was recomputed, for the backward pass that follows at once.
    """

    layer: nn.Module
    turned: bool
    kept: Tensor | None = None

    def stored(self, dtype: torch.dtype) -> Tensor | None:
        """``(O, I)`` weight that can be used as it is; None where it has to be converted."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        if quantized(weight) or weight.dtype != dtype:
            return None
        return weight.t() if self.turned else weight

    def converted(self, dtype: torch.dtype) -> Tensor:
        """``(O, I)`` weight, dequantised or cast."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        if quantized(weight):
            from bitsandbytes.functional import dequantize_4bit

            state = vars(weight)["quant_state"]
            assert not repacked(weight), "a 4-bit weight was repacked by an evaluation"
            return dequantize_4bit(weight.data, state).to(dtype)
        return (weight.t() if self.turned else weight).to(dtype)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """``(O,)``, or None."""
        bias = self.layer.bias
        return bias.to(dtype) if isinstance(bias, Tensor) else None

    def for_backward(self, dtype: torch.dtype) -> Tensor:
        """The converted weight of the recomputation just before, or converted again."""
        weight, self.kept = self.kept, None
        return self.converted(dtype) if weight is None or weight.dtype != dtype else weight


def quantized(weight: Tensor) -> bool:
    """Whether bitsandbytes stores it in 4 bits."""
    return "quant_state" in vars(weight)


def recomputing() -> bool:
    """Whether this runs inside a backward pass, as a checkpointed layer does the second time."""
    return torch._C._current_graph_task_id() != -1


class Products(torch.autograd.Function):
    """``y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T`` for every member i; gradients for x, A and B.

    The type of x is the type of all products; A and B may be kept in another (float32 masters), and their gradients
    have theirs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bases: Sequence[Base], scales: Sequence[float], *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        """Outputs ``(…, O_i)`` of ``(…, I)``; ``matrices`` are all A, ``(r_i, I)``, then all B, ``(O_i, r_i)``."""
        ctx.set_materialize_grads(False)
        ctx.bases, ctx.scales = bases, scales
        outputs, kept = multiplied(x, bases, scales, matrices, keep=ctx.needs_input_grad[0])
        ctx.save_for_backward(x, *kept)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, and of each A and B; none of what is frozen."""
        x, *kept = ctx.saved_tensors
        needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        into_x, into_matrices = differentiated(x, kept, ctx.bases, ctx.scales, gradients, needed)
        return into_x, None, None, *into_matrices


def multiplied(
    x: Tensor, bases: Sequence[Base], scales: Sequence[float], matrices: Sequence[Tensor], *, keep: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """The outputs of ``Products``, and what ``differentiated`` wants beside x.

    Args:
        x: ``(…, I)``.
        bases: Of every member.
        scales: Of every member.
        matrices: All A, then all B.
        keep: The gradient of x will be asked for.
    """
    downs, ups = matrices[: len(bases)], matrices[len(bases) :]
    flat = x.reshape(-1, x.shape[-1])
    inner = flat @ joined(downs, x.dtype).t()  # (T, R)
    weights, outputs = [], []
    for base, scale, up, own in zip(bases, scales, ups, by_rank(inner, downs), strict=True):
        weight = base.stored(x.dtype)
        weights.append(weight)
        if weight is None:
            weight = base.converted(x.dtype)
            base.kept = weight if keep and recomputing() else None
        output = linear(flat, weight, base.bias(x.dtype))
        output.addmm_(own, scaled(up, scale, x.dtype).t())
        # No view: some families change a layer's output in place, which autograd forbids for views made here.
        outputs.append(torch.ops.aten._unsafe_view(output, (*x.shape[:-1], output.shape[-1])))
    return tuple(outputs), (inner, *matrices, *weights)


def differentiated(
    x: Tensor,
    kept: Sequence[Any],
    bases: Sequence[Base],
    scales: Sequence[float],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradient of x, and those of each A and B.

    Args:
        x: ``(…, I)``.
        kept: What ``multiplied`` gave beside the outputs.
        bases: Of every member.
        scales: Of every member.
        gradients: Of the outputs.
        needed: Whether the gradient of x, and of each A and B, is asked for.
    """
    count = len(bases)
    inner, *rest = kept
    downs, ups, weights = rest[:count], rest[count : 2 * count], rest[2 * count :]
    kinds, flat = x.dtype, x.reshape(-1, x.shape[-1])
    into_x: Tensor | None = None
    into_inner: list[Tensor] = []
    into_ups: list[Tensor | None] = []
    members = zip(bases, scales, ups, weights, by_rank(inner, downs), gradients, needed[1 + count :], strict=True)
    for base, scale, up, weight, own, gradient, wanted in members:
        if gradient is None:
            into_inner.append(torch.zeros_like(own))
            into_ups.append(None)
            continue
        gradient = gradient.reshape(-1, gradient.shape[-1])
        into_inner.append(gradient @ scaled(up, scale, kinds))  # (T, r)
        # The narrow matrix first: a tall and thin result is slower.
        into_ups.append((own.t() @ gradient).t().to(up.dtype).mul_(scale).contiguous() if wanted else None)
        if needed[0]:
            used = base.for_backward(kinds) if weight is None else weight
            into_x = gradient @ used if into_x is None else into_x.addmm_(gradient, used)
    narrow = into_inner[0] if count == 1 else torch.cat(into_inner, dim=1)  # (T, R)
    into_downs: list[Tensor | None] = [None] * count
    if any(needed[1 : 1 + count]):
        own_rows = (narrow.t() @ flat).split([down.shape[0] for down in downs])
        into_downs = [own.to(down.dtype) for own, down in zip(own_rows, downs, strict=True)]
    if into_x is not None:
        into_x = into_x.addmm_(narrow, joined(downs, kinds)).view(x.shape)
    return into_x, [*into_downs, *into_ups]


def joined(downs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """``(R, I)``: all A matrices, one under the other."""
    return (downs[0] if len(downs) == 1 else torch.cat(tuple(downs))).to(dtype)


def by_rank(inner: Tensor, downs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``(T, R)`` as the members' own ``(T, r)``."""
    return inner.split([down.shape[0] for down in downs], dim=1)


def scaled(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """``(O, r)``: B times its scale, rounded once."""
    return (up * scale).to(dtype)
