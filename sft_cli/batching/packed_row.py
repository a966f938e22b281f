"""What lies where in a packed row: documents end to end, and the prefixes that several of them share.

Shapes: T tokens of the row, S segments, K keys of all segments together (T when nothing is shared).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

ARGUMENT = "sft_documents"
"""The keyword under which ``model.forward`` hands a row's documents to every attention layer."""


# Tensors have no truth value, so two of them are equal when they are one: what is made for a row is kept by identity.
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Documents:
    """The segments of a row, each computed once.

    A segment is a document, or a prefix that several documents begin with. The queries of a segment are its own
    tokens; its keys are those of the segments it continues, root first, and its own, causal from the end (the last
    query sees every key).

    Attributes:
        lengths: ``S`` numbers of own tokens, in the order of the row.
        parents: ``S`` places of the segment that each continues, always an earlier one; -1 for none.
        cu_queries: ``(S + 1,)`` int32: where each segment's own tokens begin, and T.
        cu_keys: ``(S + 1,)`` int32: where each segment's keys begin when all keys are laid end to end, and K.
        key_at: ``(K,)`` int64 places in the row of those keys; None when nothing is shared (then it is 0 to T - 1).
        read_at: Sorted places in the row whose final hidden state anything reads; None for all of them.
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    cu_queries: Tensor
    cu_keys: Tensor
    key_at: Tensor | None = None
    read_at: Tensor | None = None

    @property
    def shared(self) -> bool:
        """Whether a segment continues another."""
        return self.key_at is not None

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """``S`` numbers of keys: own tokens and those of the segments above."""
        return _key_lengths(self.lengths, self.parents)

    def above(self, segment: int) -> tuple[int, ...]:
        """The segments that ``segment`` continues, root first."""
        return _chain(segment, self.parents)[:-1]

    @property
    def alike(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Segments of equal own and key length together, each as the segments whose keys it sees, itself last."""
        return _alike(self.lengths, self.parents)

    @property
    def positions(self) -> Tensor:
        """``(1, T)`` int64 on the CPU: each token's place in its document; a segment goes on where its parent ends."""
        spans = zip(self.lengths, self.key_lengths, strict=True)
        return torch.cat([torch.arange(keys - own, keys) for own, keys in spans])[None]

    def to(self, device: torch.device) -> "Documents":
        """The same on a device."""
        names = ("cu_queries", "cu_keys", "key_at", "read_at")
        tensors = {name: getattr(self, name) for name in names}
        return replace(
            self,
            **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items() if tensor is not None},
        )


def documents(lengths: Sequence[int], parents: Sequence[int] | None = None, read_at: Tensor | None = None) -> Documents:
    """The documents of a row whose segments have these own lengths, on the CPU.

    Args:
        lengths: Own tokens of each segment, in the order of the row.
        parents: The earlier segment each continues, or -1; None: nothing is shared.
        read_at: See ``Documents``.
    """
    parents = [-1] * len(lengths) if parents is None else parents
    assert all(-1 <= parent < place for place, parent in enumerate(parents)), "a parent comes before its children"
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    made = Documents(tuple(lengths), tuple(parents), torch.tensor(starts, dtype=torch.int32), torch.zeros(0))
    keys = torch.tensor([0, *made.key_lengths]).cumsum(0).to(torch.int32)
    key_at = None
    if any(parent >= 0 for parent in parents):
        spans = [segment for own in range(len(lengths)) for segment in (*made.above(own), own)]
        key_at = torch.cat([torch.arange(starts[segment], starts[segment + 1]) for segment in spans])
    return replace(made, cu_keys=keys, key_at=key_at, read_at=read_at)


@lru_cache(maxsize=64)
def _key_lengths(lengths: tuple[int, ...], parents: tuple[int, ...]) -> tuple[int, ...]:
    """See ``Documents.key_lengths``; every layer asks."""
    total: list[int] = []
    for length, parent in zip(lengths, parents, strict=True):
        total.append(length + (total[parent] if parent >= 0 else 0))
    return tuple(total)


def _chain(segment: int, parents: Sequence[int]) -> tuple[int, ...]:
    """The segments above and the segment itself, root first."""
    chain = [segment]
    while (segment := parents[segment]) >= 0:
        chain.append(segment)
    return tuple(reversed(chain))


@lru_cache(maxsize=64)
def _alike(lengths: tuple[int, ...], parents: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """See ``Documents.alike``; every layer asks."""
    groups: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for segment, size in enumerate(zip(lengths, _key_lengths(lengths, parents), strict=True)):
        groups.setdefault(size, []).append(_chain(segment, parents))
    return tuple(tuple(group) for group in groups.values())
