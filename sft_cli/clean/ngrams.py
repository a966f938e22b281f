"""Find the prompts that a text contains, by an index of word n-grams and a comparison word by word."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.utils.words import normalized_words

PromptMatch = tuple[int, float]
"""Number of a prompt, and the share of its n-grams that a text contains."""

MIN_PROMPT_WORDS = 5
"""Words from which a prompt is searched inside longer messages; a shorter one must be a whole message."""
WORDS_PER_CHUNK = 200_000
"""Words of texts that are looked up together."""

_EDGE, _UNKNOWN = 0, -1
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


@dataclass(frozen=True)
class _NgramTable:
    """The distinct n-grams of one length.

    Attributes:
        length: Words of each n-gram.
        hashes: ``(ngrams,)`` hashes, ascending.
        ngrams: ``(ngrams, length)`` word numbers.
        starts: ``(ngrams + 1,)`` start in ``prompts`` of the prompts that contain an n-gram.
        prompts: ``(uses,)`` numbers of prompts.
    """

    length: int
    hashes: NDArray[np.uint64]
    ngrams: NDArray[np.int32]
    starts: NDArray[np.int64]
    prompts: NDArray[np.int64]


@dataclass(frozen=True)
class PromptIndex:
    """Prompts by their n-grams.

    Attributes:
        numbers: Word -> its number, from 1.
        tables: One table per length.
        sizes: ``(prompts,)`` distinct n-grams of each prompt; 0 for one without words.
    """

    numbers: dict[str, int]
    tables: tuple[_NgramTable, ...]
    sizes: NDArray[np.int64]


def build_index(prompts: Sequence[str], length: int) -> PromptIndex:
    """Return an index of n-grams of ``length`` words.

    A shorter prompt is one n-gram of all its words. With fewer than ``MIN_PROMPT_WORDS`` words, the n-gram includes the
    edges of a message.
    """
    numbers: dict[str, int] = {}
    holders: defaultdict[int, dict[tuple[int, ...], list[int]]] = defaultdict(dict)
    sizes = np.zeros(len(prompts), np.int64)
    for prompt, text in enumerate(prompts):
        words = tuple(numbers.setdefault(word, len(numbers) + 1) for word in normalized_words(text))
        ngrams = set(_ngrams(words, length))
        sizes[prompt] = len(ngrams)
        for ngram in ngrams:
            holders[len(ngram)].setdefault(ngram, []).append(prompt)
    return PromptIndex(numbers, tuple(_ngram_table(size, holders[size]) for size in sorted(holders)), sizes)


def overlapping_prompts(
    index: PromptIndex, texts: Sequence[Sequence[str]], threshold: float
) -> list[tuple[PromptMatch, ...]]:
    """Return for each row of ``texts`` (its messages) the prompts of which it contains a share of ``threshold``.

    The prompts are in order of their numbers.
    """
    matches_of_rows: list[list[PromptMatch]] = [[] for _ in texts]
    for first, ids, row_of in _chunks(index, texts):
        for table in index.tables:
            for row, prompt, count in _counts(table, ids, row_of):
                share = count / int(index.sizes[prompt])
                if share >= threshold:
                    matches_of_rows[first + row].append((prompt, share))
    return [tuple(sorted(matches)) for matches in matches_of_rows]


def _ngrams(words: tuple[int, ...], length: int) -> Iterator[tuple[int, ...]]:
    """Yield the n-grams by which a prompt is compared."""
    if len(words) >= length:
        yield from (words[start : start + length] for start in range(len(words) - length + 1))
    elif len(words) >= MIN_PROMPT_WORDS:
        yield words
    elif words:
        yield (_EDGE, *words, _EDGE)


def _ngram_table(length: int, holders: dict[tuple[int, ...], list[int]]) -> _NgramTable:
    """Return the table of n-grams of one length, from each n-gram and its prompts."""
    ngrams = np.array(list(holders), np.int32)
    hashes = _hashes(ngrams.reshape(-1), length)[::length]
    order = np.argsort(hashes, kind="stable")
    prompts = list(holders.values())
    counts = [len(prompts[place]) for place in order]
    uses = [prompt for place in order for prompt in prompts[place]]
    return _NgramTable(length, hashes[order], ngrams[order], np.cumsum([0, *counts]), np.array(uses, np.int64))


def _hashes(ids: NDArray[np.int32], length: int) -> NDArray[np.uint64]:
    """Return ``(ids - length + 1,)`` hashes of each run of ids, as polynomials modulo 2^64 (Rabin and Karp 1987)."""
    mixed = ids.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    powers = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(ids) - 1, _BASE)]))
    inverses = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(ids) - 1, _INVERSE)]))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers)])
    return (sums[length:] - sums[:-length]) * inverses[: len(ids) - length + 1]


def _chunks(
    index: PromptIndex, texts: Sequence[Sequence[str]]
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.int64]]]:
    """Yield chunks of rows: number of the first row, the numbers of all words, and each word's row from 0.

    Edges surround every message, so that no n-gram of words spans two messages.
    """
    first, ids, lengths = 0, [], []
    for row, messages in enumerate(texts):
        before = len(ids)
        ids.append(_EDGE)
        for message in messages:
            ids += [index.numbers.get(word, _UNKNOWN) for word in normalized_words(message)]
            ids.append(_EDGE)
        lengths.append(len(ids) - before)
        if len(ids) >= WORDS_PER_CHUNK or row == len(texts) - 1:
            yield first, np.array(ids, np.int32), np.repeat(np.arange(len(lengths)), lengths)
            first, ids, lengths = row + 1, [], []


def _counts(table: _NgramTable, ids: NDArray[np.int32], row_of: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield row, prompt, and the number of distinct n-grams of the prompt in the row, where there are any."""
    if len(ids) < table.length:
        return
    unknown = np.concatenate([[0], np.cumsum(ids == _UNKNOWN)])
    starts = np.flatnonzero(unknown[table.length :] == unknown[: -table.length])
    hashes = _hashes(ids, table.length)[starts]
    places = np.minimum(np.searchsorted(table.hashes, hashes), len(table.hashes) - 1)
    hits = table.hashes[places] == hashes
    starts, places = starts[hits], places[hits]
    runs = ids[starts[:, None] + np.arange(table.length)]
    same = (runs == table.ngrams[places]).all(axis=1)
    pairs = np.unique(np.stack([row_of[starts[same]], places[same]], axis=1), axis=0)
    uses = table.starts[pairs[:, 1] + 1] - table.starts[pairs[:, 1]]
    offsets = np.arange(uses.sum()) - np.repeat(np.cumsum(uses) - uses, uses)
    prompts = table.prompts[np.repeat(table.starts[pairs[:, 1]], uses) + offsets]
    matched, counts = np.unique(np.stack([np.repeat(pairs[:, 0], uses), prompts], axis=1), axis=0, return_counts=True)
    for (row, prompt), count in zip(matched.tolist(), counts.tolist(), strict=True):
        yield row, prompt, count
