"""Which prompts a text covers: an index of word n-grams, looked up many texts at a time, compared word by word."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import normalized_words

PromptMatch = tuple[int, float]
"""Number of a prompt, and the share of its n-grams that a text holds."""

MIN_PROMPT_WORDS = 5
"""Fewest words of a prompt that is looked for inside longer messages; shorter ones must be a whole message."""
WORDS_PER_CHUNK = 200_000
"""Words of texts that are looked up together."""

_EDGE, _UNKNOWN = 0, -1
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


@dataclass(frozen=True)
class _NgramTable:
    """The different n-grams of one length.

    Attributes:
        length: Words of each.
        hashes: ``(ngrams,)`` ascending.
        ngrams: ``(ngrams, length)`` word numbers.
        starts: ``(ngrams + 1,)``: where the prompts that hold an n-gram begin in ``prompts``.
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
        tables: One for each length.
        sizes: ``(prompts,)``: different n-grams of each prompt; 0 for one without words.
    """

    numbers: dict[str, int]
    tables: tuple[_NgramTable, ...]
    sizes: NDArray[np.int64]


def build_index(prompts: Sequence[str], length: int) -> PromptIndex:
    """An index of n-grams of ``length`` words.

    A shorter prompt is one n-gram of all its words; one with fewer than ``MIN_PROMPT_WORDS`` words (or than
    ``length``) begins and ends with the edges of a message.
    """
    numbers: dict[str, int] = {}
    holders: defaultdict[int, dict[tuple[int, ...], list[int]]] = defaultdict(dict)
    sizes = np.zeros(len(prompts), np.int64)
    for prompt, text in enumerate(prompts):
        found = tuple(numbers.setdefault(word, len(numbers) + 1) for word in normalized_words(text))
        ngrams = set(_ngrams(found, length))
        sizes[prompt] = len(ngrams)
        for ngram in ngrams:
            holders[len(ngram)].setdefault(ngram, []).append(prompt)
    return PromptIndex(numbers, tuple(_ngram_table(size, holders[size]) for size in sorted(holders)), sizes)


def overlapping_prompts(
    index: PromptIndex, texts: Sequence[Sequence[str]], threshold: float
) -> list[tuple[PromptMatch, ...]]:
    """For each row of ``texts`` (its messages) the prompts of which it holds a share of ``threshold`` or more.

    In the order of the prompts.
    """
    found: list[list[PromptMatch]] = [[] for _ in texts]
    for first, ids, row_of in _chunks(index, texts):
        for table in index.tables:
            for row, prompt, count in _counts(table, ids, row_of):
                share = count / int(index.sizes[prompt])
                if share >= threshold:
                    found[first + row].append((prompt, share))
    return [tuple(sorted(matches)) for matches in found]


def _ngrams(found: tuple[int, ...], length: int) -> Iterator[tuple[int, ...]]:
    """The n-grams a prompt is compared by."""
    if len(found) >= length:
        yield from (found[start : start + length] for start in range(len(found) - length + 1))
    elif len(found) >= MIN_PROMPT_WORDS:
        yield found
    elif found:
        yield (_EDGE, *found, _EDGE)


def _ngram_table(length: int, holders: dict[tuple[int, ...], list[int]]) -> _NgramTable:
    ngrams = np.array(list(holders), np.int32)
    hashes = _hashes(ngrams.reshape(-1), length)[::length]
    order = np.argsort(hashes, kind="stable")
    prompts = list(holders.values())
    counts = [len(prompts[place]) for place in order]
    uses = [prompt for place in order for prompt in prompts[place]]
    return _NgramTable(length, hashes[order], ngrams[order], np.cumsum([0, *counts]), np.array(uses, np.int64))


def _hashes(ids: NDArray[np.int32], length: int) -> NDArray[np.uint64]:
    """``(ids - length + 1,)``: of each run of ``length`` ids, as a polynomial modulo 2^64 (Rabin and Karp 1987)."""
    mixed = ids.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    powers = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(ids) - 1, _BASE)]))
    inverses = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(len(ids) - 1, _INVERSE)]))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers)])
    return (sums[length:] - sums[:-length]) * inverses[: len(ids) - length + 1]


def _chunks(
    index: PromptIndex, texts: Sequence[Sequence[str]]
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.int64]]]:
    """Rows a few at a time: the number of the first, the numbers of all their words, and each word's row from 0.

    Edges stand around every message, so that no n-gram of words reaches across.
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
    """Row, prompt, and how many different n-grams of the prompt the row holds; only where there are any."""
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
