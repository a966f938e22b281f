"""Tensors in safetensors files, whole or in parts: each process writes the rows it holds, any number reads them.

``<name>.safetensors`` holds whole tensors. Where every process holds a part of each (FSDP2 splits along the first
dimension), there is ``<name>.<part>-of-<parts>.safetensors`` for each part, whose header says with which row every
tensor begins. Nothing in the files depends on how many processes will read them.
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

ROWS = "first_rows"


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered where it is sharded: every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def write(directory: Path, name: str, tensors: Mapping[str, Tensor], *, first: bool) -> Path | None:
    """Write what this process holds of the tensors; where, or None if others hold all of it.

    Args:
        directory: Where.
        name: Of the file, without what says which part.
        tensors: Whole or sharded.
        first: Whether this is the process that writes whole tensors.
    """
    sharded = [tensor for tensor in tensors.values() if isinstance(tensor, DTensor)]
    if not sharded:
        if not first:
            return None
        save_file({key: _saved(tensor) for key, tensor in tensors.items()}, directory / f"{name}.safetensors")
        return directory / f"{name}.safetensors"
    part, parts, replica = _place(sharded[0])
    if replica:
        return None
    held, rows = dict[str, Tensor](), dict[str, int]()
    for key, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            start, local = own_rows(tensor)
            if len(local) or not start:
                held[key], rows[key] = _saved(local), start
        elif first:
            held[key] = _saved(tensor)
    file = directory / f"{name}.{part}-of-{parts}.safetensors"
    save_file(held, file, metadata={ROWS: json.dumps(rows)})
    return file


def own_rows(tensor: DTensor) -> tuple[int, Tensor]:
    """The first row that this process holds of a tensor, and its rows."""
    part, parts, _ = _place(tensor)
    each = -(-tensor.shape[0] // parts)
    return min(part * each, tensor.shape[0]), tensor.to_local()


def alike(local: Tensor, like: DTensor) -> DTensor:
    """This process's rows as a tensor sharded like another of the same shape."""
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


class Stored:
    """The tensors of one name in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._pieces: dict[str, list[tuple[int, Any]]] = {}
        for file in sorted(directory.glob(f"{name}.safetensors")) + sorted(
            directory.glob(f"{name}.*-of-*.safetensors")
        ):
            opened = safe_open(file, framework="pt")
            rows = json.loads((opened.metadata() or {}).get(ROWS, "{}"))
            keys = opened.keys()
            for key in keys:
                self._pieces.setdefault(key, []).append((rows.get(key, 0), opened))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self._pieces)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._pieces)

    def read(self, key: str, like: Tensor | None = None) -> Tensor:
        """A tensor: whole, or only the rows of ``like`` that this process holds, sharded as that is."""
        pieces = self._pieces[key]
        if not isinstance(like, DTensor) or not pieces[0][1].get_slice(key).get_shape():
            found = [opened.get_tensor(key) for _, opened in pieces]
            return found[0] if len(found) == 1 else torch.cat(found)
        start, own = own_rows(like)
        end = start + len(own)
        rows = []
        for first, opened in pieces:
            piece = opened.get_slice(key)
            last = first + piece.get_shape()[0]
            if first < end and last > start:
                rows.append(piece[max(start, first) - first : min(end, last) - first])
        local = torch.cat(rows) if rows else torch.empty(own.shape, dtype=_dtype(pieces[0][1], key))
        return alike(local.to(own.device), like)


def _dtype(opened: Any, key: str) -> torch.dtype:
    """The type of a stored tensor."""
    return opened.get_slice(key)[:0].dtype


def _place(tensor: DTensor) -> tuple[int, int, bool]:
    """Which part this process holds, of how many, and whether another holds the same."""
    part, parts, replica = 0, 1, False
    for dimension, placement in enumerate(tensor.placements):
        index, size = tensor.device_mesh.get_local_rank(dimension), tensor.device_mesh.size(dimension)
        if isinstance(placement, Replicate):
            replica = replica or index > 0
        else:
            assert placement == Shard(0), "FSDP2 splits along the first dimension"
            part, parts = index, size
    return part, parts, replica


def _saved(tensor: Tensor) -> Tensor:
    """A tensor as it is written."""
    return tensor.detach().contiguous().cpu()
