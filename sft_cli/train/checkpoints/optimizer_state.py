"""Conversion of an optimizer's state to named tensors and JSON values, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sft_cli.train.checkpoints.sharded_tensors import ShardedTensorReader
from sft_cli.utils.mappings import flatten


def optimizer_to_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the state into tensors by ``<parameter index>.<name>`` and JSON values.

    The tensors are on the CPU, and no two share memory. Those that bitsandbytes nests are named
    ``<parameter index>.<outer>.<name>``.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    seen: set[int] = set()
    for key, value in flatten(state["state"]):
        if isinstance(value, Tensor):
            if isinstance(value, DTensor):
                tensors[key] = value  # written shard by shard; no two share memory
                continue
            copy = value.detach().contiguous().cpu()
            tensors[key] = copy.clone() if copy.data_ptr() in seen else copy
            seen.add(copy.data_ptr())
        else:
            scalars[key] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    return tensors, {"values": scalars, "groups": groups}


def optimizer_from_tensors(
    optimizer: torch.optim.Optimizer, stored: ShardedTensorReader, scalars: Mapping[str, Any]
) -> None:
    """Load a state that ``optimizer_to_tensors`` split, bit for bit; for sharded parameters, only this rank's rows."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = {key: stored.read(key, parameters[int(key.partition(".")[0])]) for key in stored}
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *scalars["values"].items()]:
        index, *outer, name = key.split(".")
        values = state.setdefault(int(index), {})
        for part in outer:
            values = values.setdefault(part, {})
        values[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, saved in zip(groups, scalars["groups"], strict=True):
        group.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    _restore_dtypes(optimizer, state)


def _restore_dtypes(optimizer: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Restore the saved dtypes: on loading, torch casts float state to the dtype of the parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved.items():
        state = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor) and state[name].dtype != value.dtype:
                state[name] = value.to(state[name].device)
