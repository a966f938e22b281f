"""IFEval: numbers of sentences, words and paragraphs."""

import re

from sft_cli.scoring.instructions.base import Relation, satisfies
from sft_cli.scoring.instructions.text import punkt_sentences, runs_of_letters

_DIVIDER = re.compile(r"\s?\*\*\*\s?")


def number_sentences(answer: str, *, num_sentences: int, relation: Relation) -> bool:
    """Return whether the number of sentences is less than, or at least, a bound."""
    return satisfies(len(punkt_sentences(answer)), relation, num_sentences)


def number_words(answer: str, *, num_words: int, relation: Relation) -> bool:
    """Return whether the number of words is less than, or at least, a bound."""
    return satisfies(len(runs_of_letters(answer)), relation, num_words)


def number_paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """Return whether ``***`` divides the answer into so many parts; only the first and the last may be blank."""
    parts = [part.strip() for part in _DIVIDER.split(answer)]
    if not all(parts[1:-1]):
        return False
    return sum(map(bool, parts)) == num_paragraphs


def nth_paragraph_first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Return whether there are so many paragraphs and the n-th starts with a word.

    As published, blank paragraphs are not counted, but do shift the n-th one.
    """
    paragraphs = answer.split("\n\n")
    filled = sum(1 for paragraph in paragraphs if paragraph.strip())
    if filled != num_paragraphs or not 1 <= nth_paragraph <= filled:
        return False
    return _starts_with(paragraphs[nth_paragraph - 1], first_word)


def nth_filled_paragraph_first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Return whether there are so many paragraphs and the n-th starts with a word; blank paragraphs do not count."""
    paragraphs = [paragraph for paragraph in answer.split("\n\n") if paragraph.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    return _starts_with(paragraphs[nth_paragraph - 1], first_word)


def _starts_with(paragraph: str, word: str) -> bool:
    """Return whether a paragraph's first word, up to punctuation and without opening quotes, is the given one."""
    words = paragraph.split()
    if not words:
        return False
    first = words[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", first, maxsplit=1)[0].lower() == word.lower()
