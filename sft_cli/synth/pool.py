"""A pool of instructions in which none is similar to another by ROUGE-L."""

from array import array

from sft_cli.clean.rouge import WordIndex, f_measure, lcs_length
from sft_cli.utils.words import normalized_words


class InstructionPool:
    """A growing pool of texts; the index of words finds all candidates for a similarity, exactly.

    Args:
        similarity: ROUGE-L (F-measure of words, Lin 2004) from which two texts are similar.
    """

    def __init__(self, similarity: float) -> None:
        self.texts: list[str] = []
        self._similarity, self._index = similarity, WordIndex()
        self._numbers: dict[str, int] = {}
        self._words: list[array[int]] = []

    def similar(self, text: str) -> tuple[float, int] | None:
        """Return the ROUGE-L and the number of the first similar text of the pool; None if there is none."""
        words = self._as_numbers(text)
        for position in self._index.candidates(words, self._similarity).tolist():
            other = self._words[position]
            score = f_measure(lcs_length(words, other), len(words), len(other))
            if score >= self._similarity:
                return score, position
        return None

    def add(self, text: str) -> None:
        """Add a text, similar to another or not."""
        words = self._as_numbers(text)
        self._index.add(len(self.texts), words)
        self._words.append(words)
        self.texts.append(text)

    def _as_numbers(self, text: str) -> "array[int]":
        """Return the normalized words of a text as numbers."""
        return array("i", [self._numbers.setdefault(word, len(self._numbers)) for word in normalized_words(text)])
