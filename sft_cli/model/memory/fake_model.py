"""Prepare a model of fake tensors to compute as in training."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sft_cli.model.speed.rms_norm import is_rms_norm_candidate, match_rms_norm


def replaceable_norms(model: nn.Module) -> dict[nn.Module, tuple[float, float]]:
    """Return the norms that training replaces, with epsilon and offset; a copy with contents is tested."""
    found: dict[nn.Module, tuple[float, float]] = {}
    known: dict[Any, tuple[float, float] | None] = {}
    for norm in model.modules():
        if is_rms_norm_candidate(norm):
            weight = norm.weight
            assert isinstance(weight, Tensor)
            key = (type(norm), repr(norm), weight.shape, weight.dtype)
            if key not in known:
                with torch.device("cpu"):
                    copied = copy.deepcopy(norm)
                    copied.weight = nn.Parameter(torch.ones(weight.shape), requires_grad=False)
                    known[key] = match_rms_norm(copied)
            if (how := known[key]) is not None:
                found[norm] = how
    return found


def materialize_fake(model: nn.Module, device: torch.device) -> None:
    """Replace each meta tensor by a fake tensor on a device; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                if value is not None and id(value) not in made:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
                    trained = value.requires_grad
                    made[id(value)] = nn.Parameter(fake, trained) if isinstance(value, nn.Parameter) else fake
                if value is not None:
                    own[name] = made[id(value)]  # pyright: ignore[reportArgumentType]


class SingleExpertMode(TorchFunctionMode):
    """Multiply by the first expert's matrix instead of a grouped product.

    Sizes and saved tensors are the same; torch infers the shape of a grouped product in bfloat16 only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function or its replacement."""
        if func is torch._grouped_mm:  # pyright: ignore[reportPrivateImportUsage]
            rows, matrices = args
            return rows @ matrices[0]
        return func(*args, **(kwargs or {}))
