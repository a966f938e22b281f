"""A model whose tensors have no contents computes as training would: what stands in for what needs values."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sft_cli.model.speed.rms_norm import candidate, proven


def proven_norms(model: nn.Module) -> dict[nn.Module, tuple[float, float]]:
    """The norms that training replaces, told by a copy with contents, and their epsilon and offset."""
    found: dict[nn.Module, tuple[float, float]] = {}
    known: dict[Any, tuple[float, float] | None] = {}
    for norm in model.modules():
        if candidate(norm):
            weight = norm.weight
            assert isinstance(weight, Tensor)
            key = (type(norm), repr(norm), weight.shape, weight.dtype)
            if key not in known:
                with torch.device("cpu"):
                    copied = copy.deepcopy(norm)
                    copied.weight = nn.Parameter(torch.ones(weight.shape), requires_grad=False)
                    known[key] = proven(copied)
            if (how := known[key]) is not None:
                found[norm] = how
    return found


def give_substance(model: nn.Module, device: torch.device) -> None:
    """Replace each meta tensor by one of the active fake mode, which has a device; tied ones stay tied."""
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


class OneExpert(TorchFunctionMode):
    """Multiplies with the first expert's matrix where a grouped product is asked for.

    Sizes, and what is kept, are the same; torch knows the shape of a grouped product in bfloat16 only.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What the call returns."""
        if func is torch._grouped_mm:  # pyright: ignore[reportPrivateImportUsage]
            rows, matrices = args
            return rows @ matrices[0]
        return func(*args, **(kwargs or {}))
