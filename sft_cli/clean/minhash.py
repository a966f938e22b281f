"""Near duplicates by MinHash (Broder 1997) in bands: candidates by signature, judged by their true Jaccard index."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import RowView, normalized_words
from sft_cli.clean.clusters import DuplicateMap
from sft_cli.clean.jaccard import BucketIndex, ShingleCache, jaccard
from sft_cli.clean.row_keys import DIGEST_BYTES, comparison_text, preference_order, representatives
from sft_cli.config.schema.clean import NearDuplicatesConfig
from sft_cli.types import Conversation

SEED = 20210412
"""Of the hash functions; any, but always the same."""
RECALL = 0.99
"""Probability with which a pair right at the threshold becomes a candidate; more similar pairs, more."""

_SIGN = re.compile(r"([-+*/^=<>%&|~\\])")
"""Signs that change what is asked (``3 - 4``)."""


def minhash_duplicates(rows: RowView, config: NearDuplicatesConfig) -> DuplicateMap:
    """For each row the kept row it is similar to; see near_duplicates.py for the rule.

    Holds 4 bytes per band and 30 more for each row (114 at the default settings), and at most 6 bytes per band and 150
    more for each row that shares a band with another.
    """
    sketches = _sketches(rows, config)
    own = np.arange(len(rows))
    representative = np.where(sketches.sizes > 0, representatives(sketches.digests, rows), own)
    order = preference_order(rows)
    order = order[(representative[order] == order) & (sketches.sizes[order] > 0)]
    kept, similarity = _keep_greedily(rows, order, sketches, config)
    return DuplicateMap(kept[representative], similarity[representative])


def band_shape(threshold: float, permutations: int) -> tuple[int, int]:
    """How many bands, and hash functions in each: the widest bands that find a pair at the threshold by ``RECALL``.

    A pair of similarity s agrees in a band of width w with probability s^w.
    """
    for width in range(permutations, 0, -1):
        number = permutations // width
        if 1 - (1 - threshold**width) ** number >= RECALL:
            return number, width
    return permutations, 1


def shingles(conversation: Conversation, config: NearDuplicatesConfig) -> list[str]:
    """Runs of ``config.shingle`` words, with those signs that count, in order; a shorter text is one shingle."""
    tokens = _tokens(comparison_text(conversation, config.scope))
    runs = max(1, len(tokens) - config.shingle + 1)
    return [" ".join(tokens[start : start + config.shingle]) for start in range(runs)] if tokens else []


def _tokens(text: str) -> list[str]:
    """Words and signs, but not the hyphen inside a word; none where there is no word."""
    first, *pieces = _SIGN.split(text)
    tokens = normalized_words(first)
    any_word, before = bool(tokens), first
    for sign, piece in zip(pieces[::2], pieces[1::2], strict=True):
        if not (sign == "-" and before[-1:].isalpha() and piece[:1].isalpha()):
            tokens.append(sign)
        found = normalized_words(piece)
        any_word, before = any_word or bool(found), piece
        tokens += found
    return tokens if any_word else []


class _Sketches:
    """Of each row: ``digests`` ``(rows, 2)`` of its shingles, ``sizes`` their number, ``bands`` ``(rows, bands)``."""

    def __init__(self, num_rows: int, num_bands: int) -> None:
        self.digests = np.zeros((num_rows, 2), np.uint64)
        self.sizes = np.zeros(num_rows, np.uint32)
        self.bands = np.zeros((num_rows, num_bands), np.uint32)


def _sketches(rows: RowView, config: NearDuplicatesConfig) -> _Sketches:
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
    """For each conversation 16 bytes of digest, the number of its shingles, and its bands, as uint32."""
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
    """``(rows, bands, width)`` -> ``(rows, bands)``: 32 bits of each band.

    Bands that share them by chance are weeded out when the rows are compared.
    """
    mixed = np.zeros(grouped.shape[:2], np.uint64)
    for place in range(grouped.shape[2]):
        mixed = (mixed ^ grouped[:, :, place]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed >> np.uint64(32)


def _buckets(order: NDArray[np.int64], bands: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], int]:
    """Overwrite the bands of the ordered rows with their buckets; which rows share any, and how many slots there are.

    A bucket's number is that of its first slot; it has one more than rows. Number 0 stands for a row alone.
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
    """For each row the first row, in ``order``, that is kept and similar enough, and how similar; else itself."""
    kept, similarity = np.arange(len(rows)), np.ones(len(rows), np.float32)
    in_any, num_slots = _buckets(order, sketches.bands)
    shared = order[in_any]
    sets = ShingleCache(lambda row: shingles(rows[row], config))
    before = BucketIndex(len(shared), num_slots)
    for row in shared.tolist():
        buckets = sketches.bands[row][sketches.bands[row] > 0].astype(np.int64)
        own = sets(row)
        for other in before.candidates(buckets, own, config.threshold):
            found = jaccard(own, sets(other))
            if found >= config.threshold:
                kept[row], similarity[row] = other, found
                break
        else:
            before.add(row, buckets, own)
    return kept, similarity
