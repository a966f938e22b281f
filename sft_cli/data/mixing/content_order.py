"""Order rows by seed and content, independent of their position in files. NumPy only, no texts."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.bytes_]
"""``(rows,)`` of dtype S16: digests of 16 bytes."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shuffle_by_content(keys: Keys, seed: int, name: str) -> NDArray[np.int64]:
    """Return ``(rows,)`` indices of all rows in a seeded order.

    Rows are sorted by a hash of seed, name, key and the number of earlier rows with the same key. So the order of the
    files does not matter, and rows added later do not change the order of the others.
    """
    high, low = _split_keys(keys)
    salt = np.frombuffer(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest(), "<u8")
    occurrence = _occurrence(keys)
    hashes = _splitmix64(
        _splitmix64(_splitmix64(high ^ salt[:1]) ^ low) ^ salt[1:] ^ (occurrence.astype(np.uint64) * _GOLDEN)
    )
    return np.lexsort((occurrence, low, high, hashes)).astype(np.int64)


def shuffled_positions(keys: Keys, seed: int, name: str) -> NDArray[np.int64]:
    """Return ``(rows,)`` the position of every row in ``shuffle_by_content``, from 0."""
    order = shuffle_by_content(keys, seed, name)
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    return positions


def group_ids(keys: Keys) -> NDArray[np.int64]:
    """Return ``(rows,)`` a number from 0 for every row, the same for equal keys."""
    order, first = _sorted(keys)
    number = np.empty(len(keys), np.int64)
    number[order] = np.cumsum(first) - 1
    return number


def _occurrence(keys: Keys) -> NDArray[np.int64]:
    """Return ``(rows,)`` the number of earlier rows with the same key."""
    order, first = _sorted(keys)
    index = np.arange(len(keys))
    number = np.empty(len(keys), np.int64)
    number[order] = index - np.maximum.accumulate(np.where(first, index, 0))
    return number


def _sorted(keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return indices that sort the keys, stably, and whether each sorted key differs from the one before it."""
    high, low = _split_keys(keys)
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    first = np.ones(len(keys), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return order, first


def _split_keys(keys: Keys) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the two halves of every key as integers; NumPy would ignore trailing zero bytes."""
    assert keys.dtype == np.dtype("S16"), f"keys are {keys.dtype}, not digests of 16 bytes"
    numbers = np.ascontiguousarray(keys).view("<u8").reshape(len(keys), 2).astype(np.uint64)
    return numbers[:, 0], numbers[:, 1]


def _splitmix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64-bit numbers mixed by a bijection (SplitMix64: Steele, Lea and Flood 2014)."""
    numbers = numbers + _GOLDEN
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
