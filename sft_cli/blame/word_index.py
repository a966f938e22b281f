"""Similarity of texts by their words: the cosine of tf-idf vectors, over an inverted index.

A word that occurs ``n`` times in a text weighs ``(1 + ln n) * ln((1 + texts) / (1 + texts with the word))`` (Salton and
Buckley, 1988, "Term-weighting approaches in automatic text retrieval", scheme ltc). So a word that all texts have, such
as those of a chat template, weighs nothing, and a word of no text of the index counts in the length of a query only.
"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sft_cli.utils.words import normalized_words


class TfidfIndex:
    """Texts, to be compared with other texts. Memory: about 8 bytes for each distinct word of each text."""

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        words, counts, sizes = list[int](), list[int](), list[int]()
        for text in texts:
            found = Counter(normalized_words(text))
            words += [numbers.setdefault(word, len(numbers)) for word in found]
            counts += found.values()
            sizes.append(len(found))
        self._numbers, self._num_texts = numbers, len(sizes)
        columns, rows = np.array(words, np.int64), np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        frequency = np.bincount(columns, minlength=len(numbers))
        self._weights = np.log((1 + len(sizes)) / (1 + frequency))
        values = (1 + np.log(np.array(counts, float))) * self._weights[columns]
        norms = np.sqrt(np.bincount(rows, values**2, minlength=len(sizes)))
        values /= np.where(norms > 0, norms, 1)[rows]
        order = np.argsort(columns, kind="stable")
        self._rows, self._values = rows[order], values[order].astype(np.float32)
        self._starts = np.concatenate([[0], np.cumsum(frequency)])

    def __len__(self) -> int:
        return self._num_texts

    def similarities(self, text: str) -> NDArray[np.float32]:
        """Return ``(texts,)`` the cosine of a text with each text of the index, from 0 to 1."""
        found, total = np.zeros(self._num_texts, np.float32), 0.0
        unknown = math.log(1 + self._num_texts)
        for word, count in Counter(normalized_words(text)).items():
            number = self._numbers.get(word)
            weight = (1 + math.log(count)) * (unknown if number is None else float(self._weights[number]))
            total += weight**2
            if number is not None and weight:
                part = slice(self._starts[number], self._starts[number + 1])
                found[self._rows[part]] += self._values[part] * weight
        return np.minimum(found / math.sqrt(total), 1) if total else found
