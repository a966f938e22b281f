"""Common prefixes of examples, which a micro-batch computes only once. Does not import torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.prepared import TokenizedExample

MIN_SHARED_TOKENS = 8
"""Smallest number of tokens of a shared segment; for shorter ones, the additional segment costs more than it saves.

Two layers of width 512 on a CPU, pairs of examples of 80 tokens: 7% slower at 4 shared tokens, 5% faster at 8.
"""


@dataclass(frozen=True, slots=True)
class PrefixForest:
    """The common prefixes of some examples: a forest of shared segments, parents before children.

    Attributes:
        ends: For each shared segment, the number of tokens from the start of its examples to its end.
        parents: The segment that each one continues; -1 for none.
        of_example: For each example, the last shared segment of its prefix; -1 for none.
    """

    ends: tuple[int, ...]
    parents: tuple[int, ...]
    of_example: tuple[int, ...]

    def start(self, segment: int) -> int:
        """Return the number of tokens before a shared segment."""
        return self.end(self.parents[segment])

    def end(self, segment: int) -> int:
        """Return the number of tokens up to the end of a shared segment; 0 for -1 (no segment)."""
        return self.ends[segment] if segment >= 0 else 0

    def path(self, segment: int) -> list[int]:
        """Return the segments from the root to ``segment``; empty for -1."""
        path = []
        while segment >= 0:
            path.append(segment)
            segment = self.parents[segment]
        return path[::-1]

    def num_computed_tokens(self, members: Sequence[int], lengths: Sequence[int]) -> int:
        """Return the number of tokens of a row with these examples and each of their shared segments once."""
        used = {segment for member in members for segment in self.path(self.of_example[member])}
        shared = sum(self.ends[segment] - self.start(segment) for segment in used)
        return shared + sum(lengths[member] - self.end(self.of_example[member]) for member in members)

    def num_keys(self, members: Sequence[int], lengths: Sequence[int]) -> int:
        """Return the number of keys that the segments of a row with these examples attend to.

        Keys of shared segments count for each segment that attends to them.
        """
        used = {segment for member in members for segment in self.path(self.of_example[member])}
        return sum(self.ends[segment] for segment in used) + sum(lengths[member] for member in members)

    def restrict(self, members: Sequence[int]) -> "PrefixForest":
        """Return the prefixes that these examples share in a row; a segment with only one continuation is merged."""
        branches: dict[int, set[tuple[bool, int]]] = {}
        for index, member in enumerate(members):
            child: tuple[bool, int] = (True, index)
            for segment in reversed(self.path(self.of_example[member])):
                branches.setdefault(segment, set()).add(child)
                child = (False, segment)
        kept = sorted(segment for segment, children in branches.items() if len(children) > 1)
        numbers = {segment: number for number, segment in enumerate(kept)} | {-1: -1}

        def nearest(segment: int) -> int:
            """Return the new number of the nearest kept segment, from ``segment`` to its root."""
            while segment not in numbers:
                segment = self.parents[segment]
            return numbers[segment]

        return PrefixForest(
            ends=tuple(self.ends[segment] for segment in kept),
            parents=tuple(nearest(self.parents[segment]) for segment in kept),
            of_example=tuple(nearest(self.of_example[member]) for member in members),
        )


def target_positions(example: TokenizedExample) -> NDArray[np.int64]:
    """Return the sorted positions that predict a trained token: the id at t is predicted at t - 1.

    No position after the last one needs to be computed. The id at 0 is never predicted, whatever its weight.
    """
    return np.flatnonzero(example.weights[1:])


def find_shared_prefixes(examples: Sequence[TokenizedExample]) -> PrefixForest:
    """Find the common prefixes of at least ``MIN_SHARED_TOKENS`` tokens.

    A position is shared by examples whose ids are equal up to and including it and that predict no trained token
    there: the hidden state is the same, and no loss depends on it directly.
    """
    heads: list[NDArray[np.int64]] = []
    for example in examples:
        positions = target_positions(example)
        heads.append(example.input_ids[: positions[0] if len(positions) else 0])
    # Big-endian bytes have the same order as the ids.
    keys = [head.astype(">u4").tobytes() for head in heads]
    order = sorted((i for i in range(len(examples)) if len(heads[i]) >= MIN_SHARED_TOKENS), key=keys.__getitem__)
    lcp = [_common_prefix_length(heads[left], heads[right]) for left, right in pairwise(order)]
    ends: list[int] = []
    parents: list[int] = []
    of_rank = np.full(len(order), -1)
    open_segments: list[tuple[int, int]] = []  # enclosing segments: number, end in the sorted order
    for first, last, end in sorted(_lcp_intervals(lcp), key=lambda interval: (interval[0], -interval[1])):
        while open_segments and open_segments[-1][1] <= first:
            open_segments.pop()
        parent = open_segments[-1][0] if open_segments else -1
        if end - (ends[parent] if parent >= 0 else 0) < MIN_SHARED_TOKENS:
            continue
        open_segments.append((len(ends), last))
        of_rank[first:last] = len(ends)
        ends.append(end)
        parents.append(parent)
    of_example = np.full(len(examples), -1)
    of_example[order] = of_rank
    return PrefixForest(tuple(ends), tuple(parents), tuple(of_example.tolist()))


def _common_prefix_length(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    """Return the length of the common prefix."""
    shorter = min(len(left), len(right))
    different = left[:shorter] != right[:shorter]
    first = int(different.argmax()) if shorter else 0
    return first if shorter and different[first] else shorter


def _lcp_intervals(lcp: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield runs of neighbors with a common prefix: first index, index after the last, and length of the prefix.

    They are the intervals of a table of longest common prefixes; ``lcp[i]`` is that of the examples i and i + 1
    (Abouelhoda, Kurtz, Ohlebusch 2004, doi:10.1016/S1570-8667(03)00065-0).
    """
    stack: list[tuple[int, int]] = []  # (tokens, first index); tokens ascend
    for index, tokens in enumerate([*lcp, 0]):
        first = index
        while stack and stack[-1][0] > tokens:
            longer, first = stack.pop()
            yield first, index + 1, longer
        if tokens and (not stack or stack[-1][0] < tokens):
            stack.append((tokens, first))
