"""Compute exact Jaccard indices of rows that share a bucket; pairs below the threshold are rejected in bulk."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

MAX_CACHED = 1_000_000
"""Shingles kept in memory during the comparison, about 100 MB."""
MAX_HASHES = 64
"""Shingles of a kept row with a stored 16-bit hash, which suffices to reject most pairs."""
FEW_MATES = 1000
"""Number of bucket mates up to which they are merged by sorting; more are merged in a bit array."""

Shingles = frozenset[str]


def jaccard(one: Shingles, other: Shingles) -> float:
    """Return the number of shared elements over the number of all elements of two sets, not both empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class ShingleCache:
    """The shingles of rows; the most recent ones are cached."""

    def __init__(self, read: Callable[[int], Iterable[str]]) -> None:
        self._read = read
        self._sets: dict[int, Shingles] = {}
        self._num_cached = 0

    def __call__(self, row: int) -> Shingles:
        """Return the shingles of one row."""
        shingles = self._sets.pop(row, None)
        if shingles is None:
            shingles = frozenset(self._read(row))
            self._num_cached += len(shingles)
        self._sets[row] = shingles
        while self._num_cached > MAX_CACHED and len(self._sets) > 1:
            self._num_cached -= len(self._sets.pop(next(iter(self._sets))))
        return shingles


class BucketIndex:
    """The rows that were kept so far, by bucket, in arrays of a fixed size without an object per row.

    Buckets are consecutive in one array, and a bucket's number is the index of its first slot. That slot holds the
    number of its rows so far; the following slots hold their positions.
    """

    def __init__(self, num_rows: int, num_slots: int) -> None:
        """Allocate the index for at most ``num_rows`` rows, in buckets of ``num_slots`` slots together."""
        self._num_kept = 0
        self._rows = np.zeros(num_rows, np.int64)
        self._sizes = np.zeros(num_rows, np.int64)
        self._hashes = np.zeros((num_rows, MAX_HASHES), np.uint16)
        self._slots = np.zeros(num_slots, np.int32)

    def add(self, row: int, buckets: NDArray[np.int64], shingles: Shingles) -> None:
        """Add a row."""
        position = self._num_kept
        hashes = _hashes(shingles)[:MAX_HASHES]
        self._rows[position] = row
        self._sizes[position] = len(shingles)
        self._hashes[position, : len(hashes)] = hashes
        self._slots[buckets] += 1
        self._slots[buckets + self._slots[buckets]] = position
        self._num_kept += 1

    def candidates(self, buckets: NDArray[np.int64], shingles: Shingles, threshold: float) -> list[int]:
        """Return the rows that share a bucket and may reach the threshold, in the order in which they were kept."""
        positions = self._bucket_mates(buckets)
        if not len(positions):
            return []
        present = np.zeros(2**16, np.bool_)
        present[_hashes(shingles)] = True
        sizes = self._sizes[positions]
        # Upper bound: the shingles whose stored hash is present (collisions add some), and all without a stored hash.
        width = min(MAX_HASHES, int(sizes.max()))
        shared = present[self._hashes[:, :width][positions]].sum(axis=1) + np.maximum(sizes - MAX_HASHES, 0)
        shared = np.minimum(shared, len(shingles))
        possible = positions[shared / (sizes + len(shingles) - shared) >= threshold]
        return self._rows[possible].tolist()

    def _bucket_mates(self, buckets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return all positions in these buckets, ascending, each once."""
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
        for positions in mates:
            present[positions] = True
        return np.flatnonzero(present)


def _hashes(shingles: Shingles) -> list[int]:
    """Return a number from 1 to 65,535 for each shingle; 0 marks an empty slot."""
    return [hash(shingle) % 65_535 + 1 for shingle in shingles]
