"""Near duplicates by ROUGE-L, the rule of Self-Instruct (Wang et al. 2022, arXiv:2212.10560): every pair, exactly.

The work grows with the square of the rows that are kept: meant for tens of thousands of rows.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import RowView, normalized_words
from sft_cli.clean.clusters import DuplicateMap
from sft_cli.clean.row_keys import comparison_text, preference_order
from sft_cli.config.schema.clean import NearDuplicatesConfig
from sft_cli.types import Conversation


def rouge_duplicates(rows: RowView, config: NearDuplicatesConfig) -> DuplicateMap:
    """For each row the kept row it is similar to; see near_duplicates.py for the rule. Holds 8 bytes for each word."""
    texts = _texts(rows, config)
    kept, similarity = np.arange(len(rows)), np.ones(len(rows), np.float32)
    before = _WordIndex(len(rows))
    for row in preference_order(rows).tolist():
        text = texts[row]
        for place in before.candidates(text, config.threshold).tolist():
            other = before.rows[place]
            found = f_measure(lcs_length(text, texts[other]), len(text), len(texts[other]))
            if found >= config.threshold:
                kept[row], similarity[row] = other, found
                break
        else:
            before.add(row, text)
    return DuplicateMap(kept, similarity)


def f_measure(length: int, one: int, other: int) -> float:
    """ROUGE-L: the harmonic mean of ``length / one`` and ``length / other`` (Lin 2004); 0 for two empty texts.

    Args:
        length: Words of the longest common subsequence.
        one: Words of one text.
        other: Words of the other.
    """
    return 2 * length / (one + other) if length else 0.0


def lcs_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(one, other)


class _WordIndex:
    """The rows that were kept so far, by their words.

    Attributes:
        rows: Their numbers, in the order in which they were kept.
    """

    def __init__(self, most: int) -> None:
        self.rows: list[int] = []
        self._lengths = np.zeros(most, np.int64)
        self._holders: defaultdict[tuple[int, int], array[int]] = defaultdict(lambda: array("i"))

    def add(self, row: int, text: Sequence[int]) -> None:
        """Note a row and its words."""
        for word in _occurrences(text):
            self._holders[word].append(len(self.rows))
        self._lengths[len(self.rows)] = len(text)
        self.rows.append(row)

    def candidates(self, text: Sequence[int], threshold: float) -> NDArray[np.int64]:
        """Places in ``rows``, ascending, of all that can reach the threshold.

        A common subsequence is never longer than the words two texts share, each counted as often as in both.
        """
        holders = [np.frombuffer(self._holders[word], np.int32) for word in _occurrences(text) if word in self._holders]
        if not holders:
            return np.empty(0, np.int64)
        shared = np.bincount(np.concatenate(holders), minlength=len(self.rows))
        return np.flatnonzero(2 * shared / (len(text) + self._lengths[: len(self.rows)]) >= threshold)


def _occurrences(text: Sequence[int]) -> list[tuple[int, int]]:
    """Each word with how often it came before, so that sets of these intersect as bags of words do."""
    seen: Counter[int] = Counter()
    numbered = []
    for word in text:
        numbered.append((word, seen[word]))
        seen[word] += 1
    return numbered


def _texts(rows: RowView, config: NearDuplicatesConfig) -> list["array[int]"]:
    """The words of each row as numbers."""
    numbers: dict[str, int] = {}
    texts = []
    for _, batch in rows.map(_words, config):
        texts += [array("i", [numbers.setdefault(word, len(numbers)) for word in text.split()]) for text in batch]
    return texts


def _words(conversations: Sequence[Conversation], config: NearDuplicatesConfig) -> list[str]:
    return [" ".join(normalized_words(comparison_text(conversation, config.scope))) for conversation in conversations]
