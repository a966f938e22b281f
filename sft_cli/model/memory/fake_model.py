"""Prepare a model of fake tensors so that it computes as in training."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sft_cli.model.speed.rms_norm import is_rms_norm_candidate, match_rms_norm


def replaceable_norms(model: nn.Module) -> dict[nn.Module, tuple[float, float]]:
    """Return the norms that training replaces, with epsilon and offset, by testing copies with real weights."""
    replaceable: dict[nn.Module, tuple[float, float]] = {}
    cache: dict[Any, tuple[float, float] | None] = {}
    for norm in model.modules():
        if is_rms_norm_candidate(norm):
            weight = norm.weight
            assert isinstance(weight, Tensor)
            key = (type(norm), repr(norm), weight.shape, weight.dtype)
            if key not in cache:
                with torch.device("cpu"):
                    copied = copy.deepcopy(norm)
                    copied.weight = nn.Parameter(torch.ones(weight.shape), requires_grad=False)
                    cache[key] = match_rms_norm(copied)
            if (eps_and_offset := cache[key]) is not None:
                replaceable[norm] = eps_and_offset
    return replaceable


def materialize_fake(model: nn.Module, device: torch.device) -> None:
    """Replace each meta tensor by a fake tensor on a device; tied tensors stay tied."""
    replaced: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None and id(value) not in replaced:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
                    trained = value.requires_grad
                    replaced[id(value)] = nn.Parameter(fake, trained) if isinstance(value, nn.Parameter) else fake
                if value is not None:
                    tensors[name] = replaced[id(value)]  # pyright: ignore[reportArgumentType]


class SingleExpertMode(TorchFunctionMode):
    """Multiply by the first expert's matrix instead of a grouped product.

    Sizes and saved tensors are the same. torch infers the shape of a grouped product only in bfloat16.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function or its replacement."""
        if func is torch._grouped_mm:  # pyright: ignore[reportPrivateImportUsage]
            rows, matrices = args
            return rows @ matrices[0]
        return func(*args, **(kwargs or {}))
