"""IFBench ``ratio:`` and ``sentence:``: stop words, kinds and lengths of sentences, overlap with a text."""

import re
from itertools import pairwise

from sft_cli.scoring.instructions.text import STRIPPED, punkt_sentences, runs_of_letters, without_punctuation
from sft_cli.scoring.instructions.word_lists import STOP_WORDS

TOLERANCE = 2
"""Percentage points by which the overlap may differ."""


def stop_words(answer: str, *, percentage: int) -> bool:
    """Return whether at most so many percent of the words are stop words."""
    words = runs_of_letters(answer.lower())
    if not words:
        return False
    return sum(1 for word in words if word in STOP_WORDS) / len(words) * 100 <= percentage


def sentence_type(answer: str) -> bool:
    """Return whether there are twice as many sentences that end in a period as in a question mark."""
    return _num_ending(answer, ".") == 2 * _num_ending(answer, "?")


def sentence_balance(answer: str) -> bool:
    """Return whether as many sentences end in a period as in a question mark and in an exclamation mark."""
    return _num_ending(answer, ".") == _num_ending(answer, "?") == _num_ending(answer, "!")


def _num_ending(answer: str, mark: str) -> int:
    """Return the number of sentences that end in a mark."""
    return sum(1 for sentence in punkt_sentences(answer) if sentence.endswith(mark))


def sentence_words(answer: str) -> bool:
    """Return whether there are three sentences of the same number of characters; as published, words may repeat."""
    sentences = punkt_sentences(answer)
    return len(sentences) == 3 and len({len(sentence.strip()) for sentence in sentences}) == 1


def overlap(answer: str, *, reference_text: str, percentage: int) -> bool:
    """Return whether so many percent, within 2 points, of the different character trigrams are in the reference."""
    found = _trigrams(answer)
    if not found:
        return False
    shared = len(found & _trigrams(reference_text)) / len(found) * 100
    return percentage - TOLERANCE <= shared <= percentage + TOLERANCE


def _trigrams(text: str) -> set[str]:
    """Return the different runs of three characters."""
    return {text[start : start + 3] for start in range(len(text) - 2)}


def alliteration_increment(answer: str) -> bool:
    """Return whether each sentence has more words in runs of the same first letter than the sentence before it."""
    counts = [_num_alliterative(sentence) for sentence in punkt_sentences(answer)]
    return all(before < after for before, after in pairwise(counts))


def _num_alliterative(sentence: str) -> int:
    """Return the number of words that are next to a word with the same first letter."""
    words = [stripped for word in sentence.lower().split() if (stripped := word.lstrip(STRIPPED))]
    same = [one[0] == other[0] for one, other in pairwise(words)]
    return sum(map(any, zip([False, *same], [*same, False], strict=True)))


def increment(answer: str, *, small_n: int) -> bool:
    """Return whether each sentence has so many words more than the one before it."""
    counts = [len(without_punctuation(sentence).split()) for sentence in punkt_sentences(answer)]
    return all(after == before + small_n for before, after in pairwise(counts))


def keyword(answer: str, *, word: str, N: int) -> bool:
    """Return whether the N-th sentence has a word, in any case."""
    sentences = punkt_sentences(answer)
    if not 1 <= N <= len(sentences):
        return False
    return re.search(rf"\b{re.escape(word)}\b", sentences[N - 1], re.IGNORECASE) is not None
