"""Seeded orders of rows that hang on what the rows say, not on where they lie. NumPy alone, no texts."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.bytes_]
"""``(rows,)`` of dtype S16: digests, 16 bytes each."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shuffle_by_content(keys: Keys, seed: int, name: str) -> NDArray[np.int64]:
    """``(rows,)`` indices of all rows in a shuffled order.

    A row's place is a hash of seed, name, key and how many rows of the same key stand before it. So the order of the
    files does not matter, and rows added later leave the others in their order.
    """
    high, low = _split_keys(keys)
    salt = np.frombuffer(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest(), "<u8")
    occurrence = _occurrence(keys)
    place = _splitmix64(
        _splitmix64(_splitmix64(high ^ salt[:1]) ^ low) ^ salt[1:] ^ (occurrence.astype(np.uint64) * _GOLDEN)
    )
    return np.lexsort((occurrence, low, high, place)).astype(np.int64)


def shuffled_positions(keys: Keys, seed: int, name: str) -> NDArray[np.int64]:
    """``(rows,)``: the place of every row in ``shuffle_by_content``, from 0."""
    order = shuffle_by_content(keys, seed, name)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def group_ids(keys: Keys) -> NDArray[np.int64]:
    """``(rows,)``: a number from 0 for every row, the same for equal keys."""
    order, first = _sorted(keys)
    number = np.empty(len(keys), np.int64)
    number[order] = np.cumsum(first) - 1
    return number


def _occurrence(keys: Keys) -> NDArray[np.int64]:
    """``(rows,)``: how many rows of the same key stand before a row."""
    order, first = _sorted(keys)
    at = np.arange(len(keys))
    number = np.empty(len(keys), np.int64)
    number[order] = at - np.maximum.accumulate(np.where(first, at, 0))
    return number


def _sorted(keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Indices that sort the keys, stably, and whether a key differs from the one before it."""
    high, low = _split_keys(keys)
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    first = np.ones(len(keys), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return order, first


def _split_keys(keys: Keys) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The two halves of every key as numbers: NumPy would compare the bytes without their trailing zeros."""
    assert keys.dtype == np.dtype("S16"), f"keys are {keys.dtype}, not digests of 16 bytes"
    numbers = np.ascontiguousarray(keys).view("<u8").reshape(len(keys), 2).astype(np.uint64)
    return numbers[:, 0], numbers[:, 1]


def _splitmix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers that spreads every bit over all (SplitMix64: Steele, Lea and Flood 2014)."""
    numbers = numbers + _GOLDEN
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
