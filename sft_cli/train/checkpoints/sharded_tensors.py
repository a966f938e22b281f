"""Sharded tensors in safetensors files: each process writes its rows, and any number of processes can read them.

``<name>.safetensors`` holds whole tensors. Shards (FSDP2 splits along the first dimension) are in
``<name>.<part>-of-<parts>.safetensors``, whose header has the first row of each tensor. Nothing in the files depends on
the number of processes that read them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

FIRST_ROWS_KEY = "first_rows"


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor, gathered if it is sharded; every process must call this function."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_tensors(directory: Path, name: str, tensors: Mapping[str, Tensor], *, is_main: bool) -> Path | None:
    """Write this process's part of the tensors and return the file; None if other processes write all of them.

    Args:
        directory: The directory to write to.
        name: Name of the file, without part and suffix.
        tensors: Whole or sharded tensors.
        is_main: Whether this process writes whole tensors.
    """
    sharded = [tensor for tensor in tensors.values() if isinstance(tensor, DTensor)]
    if not sharded:
        if not is_main:
            return None
        save_file({key: _to_cpu(tensor) for key, tensor in tensors.items()}, directory / f"{name}.safetensors")
        return directory / f"{name}.safetensors"
    part, parts, replica = _shard_index(sharded[0])
    if replica:
        return None
    held, rows = dict[str, Tensor](), dict[str, int]()
    for key, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            start, local = local_rows(tensor)
            if len(local) or not start:
                held[key], rows[key] = _to_cpu(local), start
        elif is_main:
            held[key] = _to_cpu(tensor)
    file = directory / f"{name}.{part}-of-{parts}.safetensors"
    save_file(held, file, metadata={FIRST_ROWS_KEY: json.dumps(rows)})
    return file


def local_rows(tensor: DTensor) -> tuple[int, Tensor]:
    """Return this process's rows of a tensor, after the index of the first of them."""
    part, parts, _ = _shard_index(tensor)
    rows_per_part = -(-tensor.shape[0] // parts)
    return min(part * rows_per_part, tensor.shape[0]), tensor.to_local()


def shard_like(local: Tensor, like: DTensor) -> DTensor:
    """Return this process's rows as a tensor that is sharded like another of the same shape."""
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


class ShardedTensorReader:
    """Reads the tensors that ``save_tensors`` wrote under one name, by key."""

    def __init__(self, directory: Path, name: str) -> None:
        self._pieces: dict[str, list[tuple[int, Any]]] = {}
        for file in sorted(directory.glob(f"{name}.safetensors")) + sorted(
            directory.glob(f"{name}.*-of-*.safetensors")
        ):
            opened = safe_open(file, framework="pt")
            rows = json.loads((opened.metadata() or {}).get(FIRST_ROWS_KEY, "{}"))
            keys = opened.keys()
            for key in keys:
                self._pieces.setdefault(key, []).append((rows.get(key, 0), opened))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(self._pieces)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._pieces)

    def read(self, key: str, like: Tensor | None = None) -> Tensor:
        """Read a whole tensor or, where ``like`` is sharded, this process's rows as a tensor sharded like it."""
        pieces = self._pieces[key]
        if not isinstance(like, DTensor) or not pieces[0][1].get_slice(key).get_shape():
            tensors = [opened.get_tensor(key) for _, opened in pieces]
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        start, held = local_rows(like)
        end = start + len(held)
        rows = []
        for first, opened in pieces:
            piece = opened.get_slice(key)
            last = first + piece.get_shape()[0]
            if first < end and last > start:
                rows.append(piece[max(start, first) - first : min(end, last) - first])
        local = torch.cat(rows) if rows else torch.empty(held.shape, dtype=_dtype(pieces[0][1], key))
        return shard_like(local.to(held.device), like)


def _dtype(opened: Any, key: str) -> torch.dtype:
    """Return the dtype of a stored tensor."""
    return opened.get_slice(key)[:0].dtype


def _shard_index(tensor: DTensor) -> tuple[int, int, bool]:
    """Return this process's shard index, the number of shards, and whether another process holds the same shard."""
    part, parts, replica = 0, 1, False
    for dimension, placement in enumerate(tensor.placements):
        index, size = tensor.device_mesh.get_local_rank(dimension), tensor.device_mesh.size(dimension)
        if isinstance(placement, Replicate):
            replica = replica or index > 0
        else:
            assert placement == Shard(0), "FSDP2 splits along the first dimension"
            part, parts = index, size
    return part, parts, replica


def _to_cpu(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU, contiguous."""
    return tensor.detach().contiguous().cpu()
