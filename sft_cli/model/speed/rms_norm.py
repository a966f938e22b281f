"""RMS norms with frozen weights and a cheaper backward pass, for all model families.

transformers computes the norm (arXiv:1910.07467) by half a dozen operations in float32, and autograd saves most of
their results. Here only the input is saved. A module is replaced if a float32 copy of it computes that formula; its
name and class do not matter.

Shapes: T tokens, N width.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import rms_norm

TOLERANCE = 2e-6
"""Largest difference to the formula in float32, relative to the largest value."""


@dataclass(frozen=True)
class NormForward:
    """The ``forward`` of one norm.

    Attributes:
        norm: The module; its weight is read on every call.
        eps: Added to the mean square.
        offset: Added to the weight: 1 in families that store the factor minus 1 (Gemma).
    """

    norm: nn.Module
    eps: float
    offset: float

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the result of the module's own forward, which is called if no memory can be saved."""
        weight = self.norm.weight
        assert isinstance(weight, Tensor)
        same = weight.dtype == x.dtype and not weight.requires_grad and not args and not kwargs
        on_cpu = x.device.type == "cpu"
        if not same or not torch.is_grad_enabled() or not (on_cpu or (x.device.type == "cuda" and not self.offset)):
            return type(self.norm).forward(self.norm, x, *args, **kwargs)
        if on_cpu:
            output = RMSNormFunction.apply(x, weight, self.eps, self.offset)
            assert isinstance(output, Tensor)
        else:
            output = normalize(x, weight, self.eps, self.offset)
        vars(output)[NormInput.KEY] = NormInput(x.detach(), weight, self.eps, self.offset, output._version)
        return output


def normalize(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """Return the norm of ``(…, N)``, rounded once to the type of x.

    CUDA's autocast would compute it in float32, keep a float32 copy of x and return float32 (torch 2.12).
    """
    with torch.autocast(x.device.type, enabled=False):
        if offset:  # in half precision 1 + weight would be rounded
            return rms_norm(x.float(), weight.shape, weight.float() + offset, eps).to(x.dtype)
        return rms_norm(x, weight.shape, weight, eps)


@dataclass(frozen=True, slots=True)
class NormInput:
    """The input of a norm, which is saved for its own backward pass: from it, readers of the output compute that again.

    Attributes:
        x: The input, without its graph.
        weight: The weight of the norm.
        eps: See ``NormForward``.
        offset: See ``NormForward``.
        version: The version of the output; writing into it raises its version.
    """

    KEY: ClassVar[str] = "sft_norm_input"

    x: Tensor
    weight: Tensor
    eps: float
    offset: float
    version: int

    @classmethod
    def of(cls, output: Tensor) -> "NormInput | None":
        """Return the input of the norm that computed a tensor; None if none did, or the tensor was changed since."""
        found = vars(output).get(cls.KEY)
        return found if isinstance(found, NormInput) and found.version == output._version else None


class RMSNormFunction(torch.autograd.Function):
    """``x / sqrt(mean(x^2) + eps) * (weight + offset)`` over the last dimension, with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        """Return the norm of ``(…, N)``, rounded once to the dtype of x."""
        ctx.eps, ctx.offset = eps, offset
        ctx.save_for_backward(x, weight)
        return normalize(x, weight, eps, offset)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  the decorator hides the name
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient of x, computed by the kernel of a layer norm with mean 0.

        With ``h = gradient * weight`` and ``u = x * rstd`` it is ``rstd * (h - u mean(h u))``; torch's kernel computes
        ``rstd * (h - mean(h) - u mean(h u))``.
        """
        x, weight = ctx.saved_tensors
        count = x.shape[-1]
        factor = weight.float() + ctx.offset
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        rstd = norm.square_().div_(count).add_(ctx.eps).rsqrt_()
        into_x = torch.ops.aten.native_layer_norm_backward(
            gradient, x, [count], torch.zeros_like(rstd), rstd, factor, None, [True, False, False]
        )[0]
        mean = (gradient @ factor.to(gradient.dtype)).unsqueeze(-1).float().mul_(rstd).div_(count)
        return into_x.add_(mean.to(into_x.dtype)), None, None, None


def replace_rms_norms(model: nn.Module) -> int:
    """Replace the forward of every RMS norm with a frozen weight and return their number.

    Call it before DDP or FSDP wrap the model. Without gradients, with a trained weight or with mixed dtypes, a norm
    runs its own forward.
    """
    restore_rms_norms(model)
    candidates = [(norm, match_rms_norm(norm)) for norm in model.modules() if is_rms_norm_candidate(norm)]
    matched = [(norm, eps_and_offset) for norm, eps_and_offset in candidates if eps_and_offset is not None]
    for norm, (eps, offset) in matched:
        norm.forward = NormForward(norm, eps, offset)
    return len(matched)


def restore_rms_norms(model: nn.Module) -> None:
    """Restore every norm's own forward."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), NormForward):
            del module.forward


def is_rms_norm_candidate(module: nn.Module) -> bool:
    """Return whether a module has only one frozen vector: no child, no buffer, no replaced forward."""
    parameters = dict(module.named_parameters())
    if set(parameters) != {"weight"} or any(True for _ in module.children()) or any(True for _ in module.buffers()):
        return False
    weight = parameters["weight"]
    floating = weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return weight.dim() == 1 and floating and not weight.requires_grad and "forward" not in vars(module)


def match_rms_norm(norm: nn.Module) -> tuple[float, float] | None:
    """Return the epsilon and offset with which the module computes the formula; None if it computes something else.

    Some inputs are as small as the square root of epsilon, so that different epsilons give different results.
    """
    plain = copy.deepcopy(norm).float()
    weight = plain.weight
    assert isinstance(weight, Tensor)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, len(weight), generator=generator) * torch.tensor([[1.0], [1e-2], [1e-3]])
    x = x.to(weight.device)
    try:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            output = type(norm).forward(plain, x)
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return None
    if not isinstance(output, Tensor) or output.shape != x.shape:
        return None
    for eps in epsilon_candidates(norm):
        for offset in (0.0, 1.0):
            if rows_agree(output, rms_norm(x, weight.shape, weight + offset, eps)):
                return eps, offset
    return None


def epsilon_candidates(norm: nn.Module) -> Iterator[float]:
    """Yield the small positive numbers among a module's attributes."""
    return (value for value in vars(norm).values() if isinstance(value, float) and 0 < value < 0.1)


def rows_agree(left: Tensor, right: Tensor) -> bool:
    """Return whether every row agrees, relative to its largest value."""
    difference, largest = (left - right).abs().amax(dim=-1), right.abs().amax(dim=-1)
    return bool((difference <= TOLERANCE * largest).all())
