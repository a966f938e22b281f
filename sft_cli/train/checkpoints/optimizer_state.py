"""An optimizer's state as named tensors and JSON values, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sft_cli.train.checkpoints.sharded_tensors import Stored
from sft_cli.utils.mappings import flatten


def split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by ``<parameter index>.<name>`` on CPU, no two sharing memory, and everything else as JSON values.

    bitsandbytes nests its own: ``<parameter index>.<outer>.<name>``.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    seen: set[int] = set()
    for key, value in flatten(state["state"]):
        if isinstance(value, Tensor):
            if isinstance(value, DTensor):
                tensors[key] = value  # a part each; no two share memory
                continue
            copy = value.detach().contiguous().cpu()
            tensors[key] = copy.clone() if copy.data_ptr() in seen else copy
            seen.add(copy.data_ptr())
        else:
            scalars[key] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    return tensors, {"values": scalars, "groups": groups}


def join_optimizer(optimizer: torch.optim.Optimizer, stored: Stored, scalars: Mapping[str, Any]) -> None:
    """The inverse of ``split_optimizer``, to the bit; of sharded parameters this process reads its own rows."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = {key: stored.read(key, parameters[int(key.partition(".")[0])]) for key in stored}
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *scalars["values"].items()]:
        index, *outer, name = key.split(".")
        place = state.setdefault(int(index), {})
        for part in outer:
            place = place.setdefault(part, {})
        place[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, scalars["groups"], strict=True):
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    _keep_types(optimizer, state)


def _keep_types(optimizer: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Undo what torch does on loading: it turns float state into the parameter's type, bfloat16 perhaps."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved.items():
        state = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor) and state[name].dtype != value.dtype:
                state[name] = value.to(state[name].device)
