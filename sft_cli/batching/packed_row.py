"""The layout of a packed row: documents one after another, and the prefixes that several of them share.

Three documents, the last two with a common prefix P, are the segments A, P, B, C with the parents -1, -1, 1, 1. C
attends to the keys of P and its own::

    row        A A A P P B B C
    positions  0 1 2 0 1 2 3 2

Shapes: T tokens of the row, S segments, K sum of the numbers of keys of all segments (T if nothing is shared).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

PACKED_ROW_KWARG = "sft_documents"
"""The keyword argument by which ``model.forward`` passes the row to every attention layer."""
_TENSORS = ("cu_queries", "cu_keys", "key_positions", "read_positions")


# eq=False: comparing tensors gives no truth value, and caches are keyed by the row object.
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PackedRow:
    """The segments of a row, each computed once.

    A segment is a document, or a prefix that several documents share. The queries of a segment are its own tokens; its
    keys are those of its ancestors, root first, and its own. Attention is causal and aligned at the end: the last query
    attends to every key.

    Attributes:
        lengths: ``S`` numbers of own tokens, in row order.
        parents: ``S`` indices of the segment that each one continues, always an earlier one; -1 for none.
        cu_queries: ``(S + 1,)`` int32: the start of each segment's own tokens, and T.
        cu_keys: ``(S + 1,)`` int32: the start of each segment's keys in the concatenation of all keys, and K.
        key_positions: ``(K,)`` int64 positions of those keys in the row; None if nothing is shared (0 to T - 1).
        read_positions: Sorted positions whose final hidden state is read; None for all positions.
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    cu_queries: Tensor
    cu_keys: Tensor
    key_positions: Tensor | None = None
    read_positions: Tensor | None = None

    @property
    def has_shared_prefixes(self) -> bool:
        """Whether a segment continues another."""
        return self.key_positions is not None

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """``S`` numbers of keys: own tokens and those of the ancestors."""
        return _key_lengths(self.lengths, self.parents)

    def ancestors(self, segment: int) -> tuple[int, ...]:
        """Return the segments that ``segment`` continues, root first."""
        return _path(segment, self.parents)[:-1]

    @property
    def size_groups(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The segments in groups of equal own length and key length; each is given as the path from its root to it."""
        return _size_groups(self.lengths, self.parents)

    @property
    def positions(self) -> Tensor:
        """``(1, T)`` int64 on the CPU: each token's position in its document, counted through the ancestors."""
        spans = zip(self.lengths, self.key_lengths, strict=True)
        return torch.cat([torch.arange(keys - own, keys) for own, keys in spans])[None]

    def to(self, device: torch.device) -> "PackedRow":
        """Return the same row on a device; copies from pinned memory do not block."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return replace(
            self,
            **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items() if tensor is not None},
        )

    def pin_memory(self) -> "PackedRow":
        """Return the same row in page-locked memory."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return replace(self, **{name: tensor.pin_memory() for name, tensor in tensors.items() if tensor is not None})


def pack_row(
    lengths: Sequence[int], parents: Sequence[int] | None = None, read_positions: Tensor | None = None
) -> PackedRow:
    """Lay out a row of segments with these own lengths, on the CPU.

    Args:
        lengths: Number of own tokens of each segment, in row order.
        parents: The earlier segment that each one continues, or -1; None if nothing is shared.
        read_positions: See ``PackedRow``.
    """
    parents = [-1] * len(lengths) if parents is None else parents
    assert all(-1 <= parent < index for index, parent in enumerate(parents)), "a parent comes before its children"
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    row = PackedRow(tuple(lengths), tuple(parents), torch.tensor(starts, dtype=torch.int32), torch.zeros(0))
    cu_keys = torch.tensor([0, *row.key_lengths]).cumsum(0).to(torch.int32)
    key_positions = None
    if any(parent >= 0 for parent in parents):
        spans = [segment for own in range(len(lengths)) for segment in (*row.ancestors(own), own)]
        key_positions = torch.cat([torch.arange(starts[segment], starts[segment + 1]) for segment in spans])
    return replace(row, cu_keys=cu_keys, key_positions=key_positions, read_positions=read_positions)


@lru_cache(maxsize=64)
def _key_lengths(lengths: tuple[int, ...], parents: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``PackedRow.key_lengths``; cached, because every layer calls it."""
    total: list[int] = []
    for length, parent in zip(lengths, parents, strict=True):
        total.append(length + (total[parent] if parent >= 0 else 0))
    return tuple(total)


def _path(segment: int, parents: Sequence[int]) -> tuple[int, ...]:
    """Return the ancestors and the segment itself, root first."""
    path = [segment]
    while (segment := parents[segment]) >= 0:
        path.append(segment)
    return tuple(reversed(path))


@lru_cache(maxsize=64)
def _size_groups(lengths: tuple[int, ...], parents: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return ``PackedRow.size_groups``; cached, because every layer calls it."""
    groups: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for segment, size in enumerate(zip(lengths, _key_lengths(lengths, parents), strict=True)):
        groups.setdefault(size, []).append(_path(segment, parents))
    return tuple(tuple(group) for group in groups.values())
