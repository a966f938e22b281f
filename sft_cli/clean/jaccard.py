"""The true Jaccard index of rows that share a bucket: sets read again when needed, hopeless pairs left out in bulk."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

MAX_CACHED = 1_000_000
"""Shingles kept in memory while rows are compared; about 100 MB."""
MAX_HASHES = 64
"""Shingles of a kept row that are known by a 16-bit hash, so that most comparisons need no more."""
FEW_MATES = 1000
"""So many bucket mates are collected one by one; more, in an array."""

Shingles = frozenset[str]


def jaccard(one: Shingles, other: Shingles) -> float:
    """Shared elements over all elements of two sets, one of them not empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class ShingleCache:
    """The shingles of rows; the latest are remembered."""

    def __init__(self, read: Callable[[int], Iterable[str]]) -> None:
        self._read = read
        self._sets: dict[int, Shingles] = {}
        self._num_cached = 0

    def __call__(self, row: int) -> Shingles:
        """The set of one row."""
        found = self._sets.pop(row, None)
        if found is None:
            found = frozenset(self._read(row))
            self._num_cached += len(found)
        self._sets[row] = found
        while self._num_cached > MAX_CACHED and len(self._sets) > 1:
            self._num_cached -= len(self._sets.pop(next(iter(self._sets))))
        return found


class BucketIndex:
    """The rows that were kept so far, by the buckets they are in; arrays of a fixed size, no object for each row.

    Buckets lie end to end in one array, and a bucket's number is where it begins: there stands how many rows it holds
    so far, behind it their places.
    """

    def __init__(self, num_rows: int, num_slots: int) -> None:
        """For at most ``num_rows`` rows, in buckets that need ``num_slots`` places together."""
        self._num_kept = 0
        self._rows = np.zeros(num_rows, np.int64)
        self._sizes = np.zeros(num_rows, np.int64)
        self._hashes = np.zeros((num_rows, MAX_HASHES), np.uint16)
        self._slots = np.zeros(num_slots, np.int32)

    def add(self, row: int, buckets: NDArray[np.int64], shingles: Shingles) -> None:
        """Note a row."""
        place = self._num_kept
        hashes = _hashes(shingles)[:MAX_HASHES]
        self._rows[place] = row
        self._sizes[place] = len(shingles)
        self._hashes[place, : len(hashes)] = hashes
        self._slots[buckets] += 1
        self._slots[buckets + self._slots[buckets]] = place
        self._num_kept += 1

    def candidates(self, buckets: NDArray[np.int64], shingles: Shingles, threshold: float) -> list[int]:
        """The rows that share a bucket and may reach the threshold, in the order in which they were kept."""
        places = self._bucket_mates(buckets)
        if not len(places):
            return []
        present = np.zeros(2**16, np.bool_)
        present[_hashes(shingles)] = True
        sizes = self._sizes[places]
        # No more shingles are shared than marks are (hashes that collide add some), and all that have no mark.
        width = min(MAX_HASHES, int(sizes.max()))
        shared = present[self._hashes[:, :width][places]].sum(axis=1) + np.maximum(sizes - MAX_HASHES, 0)
        shared = np.minimum(shared, len(shingles))
        hopeful = places[shared / (sizes + len(shingles) - shared) >= threshold]
        return self._rows[hopeful].tolist()

    def _bucket_mates(self, buckets: NDArray[np.int64]) -> NDArray[np.int64]:
        """All places in these buckets, ascending, each once."""
        counts = self._slots[buckets].tolist()
        mates = [
            self._slots[bucket + 1 : bucket + 1 + count]
            for bucket, count in zip(buckets.tolist(), counts, strict=True)
            if count
        ]
        if not mates:
            return np.zeros(0, np.int64)
        if sum(counts) <= FEW_MATES:
            return np.unique(np.concatenate(mates)).astype(np.int64)
        present = np.zeros(self._num_kept, np.bool_)
        for places in mates:
            present[places] = True
        return np.flatnonzero(present)


def _hashes(shingles: Shingles) -> list[int]:
    """A number from 1 to 65,535 for each shingle; 0 is no shingle's."""
    return [hash(shingle) % 65_535 + 1 for shingle in shingles]
