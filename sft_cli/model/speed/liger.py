"""Liger's fused Triton kernels (RMSNorm, rotary positions, SwiGLU) on a model instance, on CUDA."""

import inspect
from importlib.util import find_spec

import torch
from torch import nn

from sft_cli.config.schema.speed import Choice
from sft_cli.errors import SftError
from sft_cli.model.quant import causal_lm


def apply_liger_kernels(model: nn.Module, choice: Choice, device: torch.device) -> str | None:
    """Replace norms, rotary positions and MLPs of a model in place.

    Liger's fused loss stays off, because ``LossModel`` computes the loss.

    Args:
        model: A causal LM without an adapter: adapters wrap the layers inside an MLP, not the MLP.
        choice: ``speed.kernels``.
        device: The device of the model.

    Returns:
        A clause for the log; None if nothing was replaced.

    Raises:
        SftError: The kernels are required but not available here.
    """
    if choice is Choice.never:
        return None
    lm = causal_lm(model)
    problem = liger_blocker(lm.config.model_type, device)
    if problem is None:
        _apply(lm, lm.config.model_type)
        return f"Liger's norms, positions and MLPs of {lm.config.model_type}"
    if choice is Choice.always:
        raise SftError(where="speed.kernels=always", problem=problem[0], fix=problem[1])
    return None


def liger_blocker(family: str, device: torch.device) -> tuple[str, str] | None:
    """Return why Liger's kernels cannot be used, and a fix; None if they can."""
    if device.type != "cuda":
        return "Liger's kernels need CUDA, which this run does not use", "speed.kernels=auto"
    if find_spec("liger_kernel") is None:
        return "liger-kernel is not installed", "pip install 'sft-cli[liger]'"
    if family not in _supported_families():
        return f"liger-kernel does not support models of type {family}", "speed.kernels=auto"
    return None


def _supported_families() -> dict[str, object]:
    """Return Liger's functions by model type."""
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )

    return MODEL_TYPE_TO_APPLY_LIGER_FN


def _apply(lm: nn.Module, family: str) -> None:
    """Call Liger's function for the family, without the kernels of the loss."""
    function = _supported_families()[family]
    assert callable(function)
    parameters = inspect.signature(function).parameters
    losses = {name: False for name in ("cross_entropy", "fused_linear_cross_entropy") if name in parameters}
    function(model=lm, **losses)
