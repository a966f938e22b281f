"""Find near duplicates by ROUGE-L, the rule of Self-Instruct (Wang et al. 2022, arXiv:2212.10560): every pair, exactly.

The cost grows with the square of the number of kept rows: meant for tens of thousands of rows.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import RowView
from sft_cli.clean.clusters import DuplicateMap
from sft_cli.clean.row_keys import comparison_text, preference_order
from sft_cli.config.schema.clean import NearDuplicatesConfig
from sft_cli.types import Conversation
from sft_cli.utils.words import normalized_words


def rouge_duplicates(rows: RowView, config: NearDuplicatesConfig) -> DuplicateMap:
    """Return the kept row for each row, by the rule in near_duplicates.py; 8 bytes of memory per word."""
    texts = _texts(rows, config)
    kept, similarity = np.arange(len(rows)), np.ones(len(rows), np.float32)
    kept_rows = WordIndex()
    for row in preference_order(rows).tolist():
        text = texts[row]
        for position in kept_rows.candidates(text, config.threshold).tolist():
            other = kept_rows.rows[position]
            score = f_measure(lcs_length(text, texts[other]), len(text), len(texts[other]))
            if score >= config.threshold:
                kept[row], similarity[row] = other, score
                break
        else:
            kept_rows.add(row, text)
    return DuplicateMap(kept, similarity)


def f_measure(length: int, one: int, other: int) -> float:
    """Return ROUGE-L: the harmonic mean of ``length / one`` and ``length / other`` (Lin 2004); 0 for empty texts.

    Args:
        length: Words of the longest common subsequence.
        one: Words of the first text.
        other: Words of the second text.
    """
    return 2 * length / (one + other) if length else 0.0


def lcs_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(one, other)


class WordIndex:
    """The texts that were kept so far, by their words.

    Attributes:
        rows: Numbers of the texts, in the order in which they were kept.
    """

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._lengths = array("q")
        self._holders: defaultdict[tuple[int, int], array[int]] = defaultdict(lambda: array("i"))

    def add(self, row: int, text: Sequence[int]) -> None:
        """Add a text by its number and its words."""
        for word in _occurrences(text):
            self._holders[word].append(len(self.rows))
        self._lengths.append(len(text))
        self.rows.append(row)

    def candidates(self, text: Sequence[int], threshold: float) -> NDArray[np.int64]:
        """Return positions in ``rows``, ascending, of all texts that can reach the threshold.

        A common subsequence is never longer than the multiset intersection of the words of both texts.
        """
        holders = [np.frombuffer(self._holders[word], np.int32) for word in _occurrences(text) if word in self._holders]
        if not holders:
            return np.empty(0, np.int64)
        shared = np.bincount(np.concatenate(holders), minlength=len(self.rows))
        return np.flatnonzero(2 * shared / (len(text) + np.frombuffer(self._lengths, np.int64)) >= threshold)


def _occurrences(text: Sequence[int]) -> list[tuple[int, int]]:
    """Return each word with the number of earlier occurrences, so that sets of them intersect as multisets."""
    seen: Counter[int] = Counter()
    numbered = []
    for word in text:
        numbered.append((word, seen[word]))
        seen[word] += 1
    return numbered


def _texts(rows: RowView, config: NearDuplicatesConfig) -> list["array[int]"]:
    """Return the words of each row as numbers."""
    numbers: dict[str, int] = {}
    texts = []
    for _, batch in rows.map(_words, config):
        texts += [array("i", [numbers.setdefault(word, len(numbers)) for word in text.split()]) for text in batch]
    return texts


def _words(conversations: Sequence[Conversation], config: NearDuplicatesConfig) -> list[str]:
    """Return the normalized words of each conversation, joined by spaces."""
    return [" ".join(normalized_words(comparison_text(conversation, config.scope))) for conversation in conversations]
