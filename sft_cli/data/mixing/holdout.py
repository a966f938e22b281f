"""Which training rows are held out: by content and seed, stratified by source, what belongs together kept together."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.mixing import content_order
from sft_cli.data.mixing.apportionment import apportion
from sft_cli.data.mixing.content_order import Keys
from sft_cli.errors import SftError

STAYS_IN_TRAINING = -1
"""As a source's number: a row that stays in training, with everything that belongs to it."""
BLOCK = 1 << 16
"""Families looked at between two conversions from arrays to lists."""


def hold_out(
    keys: Keys, groups: NDArray[np.int64], sources: NDArray[np.int64], fraction: float, rows: int | None, seed: int
) -> NDArray[np.bool_]:
    """``(rows,)``: whether a row is held out.

    Of every source ``fraction`` of the rows is held out, rounded, but at least one and never all if two of them do not
    belong together; or ``rows`` over all sources, in proportion to their sizes. Rows that share a key or a group belong
    together, also through others, and stay on one side; a family that would exceed the number of a source is passed
    over, unless the source went without. A row's side hangs on the seed and on what the rows say: their order does not
    matter, and rows added later hardly move the others.

    Args:
        keys: ``(rows,)`` digests of the prompts.
        groups: ``(rows,)`` number of the group (a tree's branches, near duplicates), or -1.
        sources: ``(rows,)`` number of the source from 0, or ``STAYS_IN_TRAINING``.
        fraction: Share that is held out, in [0, 1); not read when ``rows`` is given.
        rows: Rows held out over all sources (0: none), or None.
        seed: Chooses them.

    Raises:
        SftError: ``rows`` would leave nothing to train on.
    """
    sizes = np.bincount(sources[sources >= 0])
    wanted = _by_fraction(sizes, fraction) if rows is None else _by_number(sizes, rows)
    if not wanted.any():
        return np.zeros(len(keys), np.bool_)
    family = group_families(keys, groups)
    place = np.full(len(keys), len(keys), np.int64)  # of a family, under the number of its first row
    np.minimum.at(place, family, content_order.shuffled_positions(keys, seed, "validation"))
    held_out = np.zeros(len(keys), np.bool_)
    held_out[_choose_families(_FamilyCounts(family, sources, place), sizes, wanted)] = True
    return held_out[family]


def group_families(keys: Keys, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(rows,)``: number of the first row of each row's family; rows that share a key or a group are of one family."""
    return merge_groups(content_order.group_ids(keys), groups)


def merge_groups(key: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """As ``group_families``, for keys that are numbers from 0.

    Connected components by hooking and shortcutting (Zhang, Azad and Hu 2020, FastSV, arXiv:1910.05971): every round
    points each row, and the row it pointed at, to the smallest row seen among its neighbours.
    """
    grouped = np.flatnonzero(groups >= 0)
    _, group = np.unique(groups[grouped], return_inverse=True)
    family = np.arange(len(key))
    while True:
        seen = _group_minimum(key, family)
        seen[grouped] = np.minimum(seen[grouped], _group_minimum(group, seen[grouped]))
        linked = seen.copy()
        np.minimum.at(linked, family, seen)
        linked = linked[linked]
        if np.array_equal(linked, family):
            return family
        family = linked


def _group_minimum(number: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every row the smallest of the values of the rows that have its number."""
    least = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, number, values)
    return least[number]


def _by_fraction(sizes: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """Rows to hold out of every source: the rounded share, at least one, never all."""
    if fraction == 0:
        return np.zeros_like(sizes)
    return np.minimum(np.maximum(np.rint(fraction * sizes).astype(np.int64), 1), np.maximum(sizes - 1, 0))


def _by_number(sizes: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Rows to hold out of every source: ``rows`` in proportion to the sizes, never all of one."""
    total = int(sizes.sum())
    if not rows:
        return np.zeros_like(sizes)
    if rows >= total:
        raise SftError(
            where="data.val_rows",
            problem=f"data.val_rows is {rows}, but there are only {total} rows to hold them out of",
            fix="ask for fewer, or for a share: data.val_fraction=0.05",
        )
    return np.minimum(apportion(rows * sizes / total, rows), np.maximum(sizes - 1, 0))


class _FamilyCounts:
    """How many rows each family has in each source, the families in the order in which they are chosen.

    Families with a row that stays in training are left out.
    """

    def __init__(self, family: NDArray[np.int64], sources: NDArray[np.int64], place: NDArray[np.int64]) -> None:
        free = np.ones(len(family), np.bool_)
        free[family[sources < 0]] = False
        rows = free[family]  # so are all of their rows' sources
        num_sources = int(sources.max(initial=0)) + 1
        pair, count = np.unique(family[rows] * num_sources + sources[rows], return_counts=True)
        family, source = np.divmod(pair, num_sources)
        order = np.lexsort((source, place[family]))
        self.family, self.source, self.count = family[order], source[order], count[order]
        self._starts = np.append(np.flatnonzero(np.diff(self.family, prepend=-1)), len(order))

    def __iter__(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each family with its sources and rows."""
        for block in range(0, len(self._starts) - 1, BLOCK):
            starts = self._starts[block : block + BLOCK + 1]
            inside = slice(starts[0], starts[-1])
            family = self.family[inside].tolist()
            counts = list(zip(self.source[inside].tolist(), self.count[inside].tolist(), strict=True))
            edges = (starts - starts[0]).tolist()
            for start, end in pairwise(edges):
                yield family[start], counts[start:end]


def _choose_families(families: _FamilyCounts, sizes: NDArray[np.int64], wanted: NDArray[np.int64]) -> list[int]:
    """The families that are held out."""
    quota, held, chosen = wanted.tolist(), [0] * len(wanted), []
    left = sum(quota)
    for family, own in families:
        if left == 0:
            break
        if all(held[source] + count <= quota[source] for source, count in own):
            chosen.append(family)
            left -= _count_family(held, own)
    for source, number in enumerate(quota):
        if number and not held[source]:
            small = _smallest_family(families, source, held, sizes.tolist())
            if small is not None:
                chosen.append(small[0])
                _count_family(held, small[1])
    return chosen


def _count_family(held: list[int], own: list[tuple[int, int]]) -> int:
    """Count a family as held out; its rows."""
    for source, count in own:
        held[source] += count
    return sum(count for _, count in own)


def _smallest_family(
    families: _FamilyCounts, source: int, held: list[int], sizes: list[int]
) -> tuple[int, list[tuple[int, int]]] | None:
    """The smallest family with rows of a source whose loss leaves every source something, the first of equals."""
    fitting = [
        (sum(count for _, count in own), number, family, own)
        for number, (family, own) in enumerate(families)
        if any(part == source for part, _ in own) and all(held[part] + count < sizes[part] for part, count in own)
    ]
    return min(fitting)[2:] if fitting else None
