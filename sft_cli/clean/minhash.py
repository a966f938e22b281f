"""Find near duplicates by banded MinHash (Broder 1997): candidates by signature, compared by exact Jaccard index."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import RowView
from sft_cli.clean.clusters import DuplicateMap
from sft_cli.clean.jaccard import BucketIndex, ShingleCache, jaccard
from sft_cli.clean.row_keys import DIGEST_BYTES, comparison_text, preference_order, representatives
from sft_cli.config.schema.clean import NearDuplicatesConfig
from sft_cli.types import Conversation
from sft_cli.utils.words import normalized_words

SEED = 20210412
"""Seed of the hash functions; any fixed number."""
RECALL = 0.99
"""Probability with which a pair at the threshold becomes a candidate; more similar pairs are found more often."""

_SIGN = re.compile(r"([-+*/^=<>%&|~\\])")
"""Signs that change the meaning of a text (``3 - 4``)."""


def minhash_duplicates(rows: RowView, config: NearDuplicatesConfig) -> DuplicateMap:
    """Return the kept row for each row, by the rule in near_duplicates.py.

    Memory: 4 bytes per band and 30 more for each row (114 at the default settings), and at most 6 bytes per band and
        150
    more for each row that shares a band with another.
    """
    sketches = _sketches(rows, config)
    indices = np.arange(len(rows))
    representative = np.where(sketches.sizes > 0, representatives(sketches.digests, rows), indices)
    order = preference_order(rows)
    order = order[(representative[order] == order) & (sketches.sizes[order] > 0)]
    kept, similarity = _keep_greedily(rows, order, sketches, config)
    return DuplicateMap(kept[representative], similarity[representative])


def band_shape(threshold: float, permutations: int) -> tuple[int, int]:
    """Return the number and width of the widest bands that find a pair at the threshold with ``RECALL``.

    A pair of similarity s agrees in a band of width w with probability s^w.
    """
    for width in range(permutations, 0, -1):
        number = permutations // width
        if 1 - (1 - threshold**width) ** number >= RECALL:
            return number, width
    return permutations, 1


def shingles(conversation: Conversation, config: NearDuplicatesConfig) -> list[str]:
    """Return runs of ``config.shingle`` words and signs, in order; a shorter text is one shingle."""
    tokens = _tokens(comparison_text(conversation, config.scope))
    runs = max(1, len(tokens) - config.shingle + 1)
    return [" ".join(tokens[start : start + config.shingle]) for start in range(runs)] if tokens else []


def _tokens(text: str) -> list[str]:
    """Return words and signs, without the hyphen inside a word; an empty list for a text without a word."""
    first, *pieces = _SIGN.split(text)
    tokens = normalized_words(first)
    has_word, before = bool(tokens), first
    for sign, piece in zip(pieces[::2], pieces[1::2], strict=True):
        if not (sign == "-" and before[-1:].isalpha() and piece[:1].isalpha()):
            tokens.append(sign)
        piece_words = normalized_words(piece)
        has_word, before = has_word or bool(piece_words), piece
        tokens += piece_words
    return tokens if has_word else []


class _Sketches:
    """The sketches of all rows.

    Attributes:
        digests: ``(rows, 2)`` digests of the shingles.
        sizes: ``(rows,)`` numbers of distinct shingles.
        bands: ``(rows, bands)`` hashes of the bands, later buckets.
    """

    def __init__(self, num_rows: int, num_bands: int) -> None:
        self.digests = np.zeros((num_rows, 2), np.uint64)
        self.sizes = np.zeros(num_rows, np.uint32)
        self.bands = np.zeros((num_rows, num_bands), np.uint32)


def _sketches(rows: RowView, config: NearDuplicatesConfig) -> _Sketches:
    """Return the sketches of all rows."""
    number, _ = band_shape(config.threshold, config.permutations)
    sketches = _Sketches(len(rows), number)
    for start, batch in rows.map(_sketch, config):
        packed = np.frombuffer(b"".join(batch), np.uint32).reshape(len(batch), -1)
        part = slice(start, start + len(batch))
        sketches.digests[part] = np.ascontiguousarray(packed[:, :4]).view(np.uint64)
        sketches.sizes[part] = packed[:, 4]
        sketches.bands[part] = packed[:, 5:]
    return sketches


def _sketch(conversations: Sequence[Conversation], config: NearDuplicatesConfig) -> list[bytes]:
    """Return the sketch of each conversation as bytes: digest (16), number of shingles and bands (uint32 each)."""
    from rensa import RMinHash  # pyright: ignore

    number, width = band_shape(config.threshold, config.permutations)
    texts = [shingles(conversation, config) for conversation in conversations]
    matrix = RMinHash.digest_matrix_from_token_sets(texts, config.permutations, SEED)
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), config.permutations)
    grouped = signatures[:, : number * width].reshape(len(texts), number, width)
    bands = _band_hashes(grouped).astype(np.uint32)
    return [
        hashlib.blake2b("\n".join(text).encode(), digest_size=DIGEST_BYTES).digest()
        + np.uint32(len(set(text))).tobytes()
        + band.tobytes()
        for text, band in zip(texts, bands, strict=True)
    ]


def _band_hashes(grouped: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ``(rows, bands)`` 32-bit hashes of bands ``(rows, bands, width)``.

    Chance collisions are rejected when the rows are compared.
    """
    mixed = np.zeros(grouped.shape[:2], np.uint64)
    for column in range(grouped.shape[2]):
        mixed = (mixed ^ grouped[:, :, column]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed >> np.uint64(32)


def _buckets(order: NDArray[np.int64], bands: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], int]:
    """Overwrite the bands of the ordered rows with their buckets.

    A bucket's number is the index of its first slot; it has one slot more than rows. Number 0 marks a row that is
    alone.

    Returns:
        Whether each row shares a bucket, and the number of slots.
    """
    shared = np.zeros(len(order), np.bool_)
    used = 1
    for band in range(bands.shape[1]):
        _, bucket, sizes = np.unique(bands[order, band], return_inverse=True, return_counts=True)
        slots = np.where(sizes > 1, sizes + 1, 0)
        firsts = np.where(sizes > 1, np.cumsum(slots) - slots + used, 0)
        bands[order, band] = firsts[bucket]
        shared |= sizes[bucket] > 1
        used += int(slots.sum())
    assert used < 2**32, "bucket numbers overflow"
    return shared, used


def _keep_greedily(
    rows: RowView, order: NDArray[np.int64], sketches: _Sketches, config: NearDuplicatesConfig
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first kept row, in ``order``, that is similar enough to each row, and their similarity.

    A row without such a row is kept, and maps to itself.

    Args:
        rows: All rows.
        order: The distinct rows, in order of preference.
        sketches: Their sketches; the bands are overwritten with buckets.
        config: The threshold.
    """
    kept, similarity = np.arange(len(rows)), np.ones(len(rows), np.float32)
    shares_bucket, num_slots = _buckets(order, sketches.bands)
    shared = order[shares_bucket]
    sets = ShingleCache(lambda row: shingles(rows[row], config))
    kept_rows = BucketIndex(len(shared), num_slots)
    for row in shared.tolist():
        buckets = sketches.bands[row][sketches.bands[row] > 0].astype(np.int64)
        row_shingles = sets(row)
        for other in kept_rows.candidates(buckets, row_shingles, config.threshold):
            index = jaccard(row_shingles, sets(other))
            if index >= config.threshold:
                kept[row], similarity[row] = other, index
                break
        else:
            kept_rows.add(row, buckets, row_shingles)
    return kept, similarity
