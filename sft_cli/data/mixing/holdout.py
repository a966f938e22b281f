"""Choose the training rows to hold out, by content and seed, per source, keeping related rows together."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.mixing import content_order
from sft_cli.data.mixing.apportionment import apportion
from sft_cli.data.mixing.content_order import Keys
from sft_cli.errors import SftError

STAYS_IN_TRAINING = -1
"""Source number of a row that stays in training, with all rows related to it."""
BLOCK = 1 << 16
"""Families per conversion from arrays to lists."""


def hold_out(
    keys: Keys, groups: NDArray[np.int64], sources: NDArray[np.int64], fraction: float, rows: int | None, seed: int
) -> NDArray[np.bool_]:
    """Return ``(rows,)`` whether a row is held out.

    With ``fraction``, that share of every source is held out, rounded: at least one row, and never all rows unless they
    are all related. With ``rows``, that number is held out over all sources, in proportion to their sizes. Rows that
    share a key or a group, directly or through other rows, are a family and stay on one side. A family that would
    exceed the quota of a source is skipped, unless no row of the source would be held out. The choice depends on the
    seed and the content of the rows: their order does not matter, and rows added later move few of the others.

    Args:
        keys: ``(rows,)`` digests of the prompts.
        groups: ``(rows,)`` number of the group (a tree's branches, near duplicates), or -1.
        sources: ``(rows,)`` number of the source from 0, or ``STAYS_IN_TRAINING``.
        fraction: Share to hold out, in [0, 1); not read when ``rows`` is given.
        rows: Rows to hold out over all sources (0: none), or None.
        seed: Selects the rows.

    Raises:
        SftError: ``rows`` would leave no row to train on.
    """
    sizes = np.bincount(sources[sources >= 0])
    quotas = _by_fraction(sizes, fraction) if rows is None else _by_number(sizes, rows)
    if not quotas.any():
        return np.zeros(len(keys), np.bool_)
    family = group_families(keys, groups)
    position = np.full(len(keys), len(keys), np.int64)  # of each family, at the index of its first row
    np.minimum.at(position, family, content_order.shuffled_positions(keys, seed, "validation"))
    held_out = np.zeros(len(keys), np.bool_)
    held_out[_choose_families(_FamilyCounts(family, sources, position), sizes, quotas)] = True
    return held_out[family]


def group_families(keys: Keys, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``(rows,)`` the number of the first row of each row's family: rows that share a key or a group."""
    return merge_groups(content_order.group_ids(keys), groups)


def merge_groups(key: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the families of ``group_families``, for keys that are numbers from 0.

    Connected components by hooking and shortcutting (Zhang, Azad and Hu 2020, FastSV, arXiv:1910.05971): every round
    links each row, and the row that it was linked to, to the smallest row among its neighbors.
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
    """Return for every row the smallest value of the rows with its number."""
    least = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, number, values)
    return least[number]


def _by_fraction(sizes: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """Return the rows to hold out of every source: the rounded share, at least one, never all."""
    if fraction == 0:
        return np.zeros_like(sizes)
    return np.minimum(np.maximum(np.rint(fraction * sizes).astype(np.int64), 1), np.maximum(sizes - 1, 0))


def _by_number(sizes: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the rows to hold out of every source: ``rows`` in proportion to the sizes, never all of a source."""
    total = int(sizes.sum())
    if not rows:
        return np.zeros_like(sizes)
    if rows >= total:
        raise SftError(
            where="data.val_rows",
            problem=f"data.val_rows is {rows}, but there are only {total} training rows",
            fix=f"data.val_rows={total // 2}, or a share: data.val_fraction=0.05",
        )
    return np.minimum(apportion(rows * sizes / total, rows), np.maximum(sizes - 1, 0))


class _FamilyCounts:
    """The number of rows of each family in each source, the families in the order in which they are selected.

    Families with a row that stays in training are left out.
    """

    def __init__(self, family: NDArray[np.int64], sources: NDArray[np.int64], position: NDArray[np.int64]) -> None:
        free = np.ones(len(family), np.bool_)
        free[family[sources < 0]] = False
        rows = free[family]  # the rows of families that can be held out
        num_sources = int(sources.max(initial=0)) + 1
        pair, count = np.unique(family[rows] * num_sources + sources[rows], return_counts=True)
        family, source = np.divmod(pair, num_sources)
        order = np.lexsort((source, position[family]))
        self.family, self.source, self.count = family[order], source[order], count[order]
        self._starts = np.append(np.flatnonzero(np.diff(self.family, prepend=-1)), len(order))

    def __iter__(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield each family with its sources and rows."""
        for block in range(0, len(self._starts) - 1, BLOCK):
            starts = self._starts[block : block + BLOCK + 1]
            inside = slice(starts[0], starts[-1])
            family = self.family[inside].tolist()
            counts = list(zip(self.source[inside].tolist(), self.count[inside].tolist(), strict=True))
            edges = (starts - starts[0]).tolist()
            for start, end in pairwise(edges):
                yield family[start], counts[start:end]


def _choose_families(families: _FamilyCounts, sizes: NDArray[np.int64], quotas: NDArray[np.int64]) -> list[int]:
    """Return the families to hold out.

    Args:
        families: All families.
        sizes: ``(sources,)`` rows of each source.
        quotas: ``(sources,)`` rows to hold out.
    """
    quota, held, selected = quotas.tolist(), [0] * len(quotas), []
    remaining = sum(quota)
    for family, counts in families:
        if remaining == 0:
            break
        if all(held[source] + count <= quota[source] for source, count in counts):
            selected.append(family)
            remaining -= _count_family(held, counts)
    for source, number in enumerate(quota):
        if number and not held[source]:
            small = _smallest_family(families, source, held, sizes.tolist())
            if small is not None:
                selected.append(small[0])
                _count_family(held, small[1])
    return selected


def _count_family(held: list[int], counts: list[tuple[int, int]]) -> int:
    """Add the rows of a family to the held-out rows of each source, and return their number."""
    for source, count in counts:
        held[source] += count
    return sum(count for _, count in counts)


def _smallest_family(
    families: _FamilyCounts, source: int, held: list[int], sizes: list[int]
) -> tuple[int, list[tuple[int, int]]] | None:
    """Return the smallest family with rows of a source whose loss leaves every source some rows, the first on a tie.

    Args:
        families: All families.
        source: The source.
        held: ``(sources,)`` rows held out already.
        sizes: ``(sources,)`` rows of each source.
    """
    fitting = [
        (sum(count for _, count in counts), number, family, counts)
        for number, (family, counts) in enumerate(families)
        if any(part == source for part, _ in counts) and all(held[part] + count < sizes[part] for part, count in counts)
    ]
    return min(fitting)[2:] if fitting else None
