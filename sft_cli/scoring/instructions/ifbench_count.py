"""IFBench ``count:``: numbers of words, names, numbers, pronouns and punctuation marks."""

import re

from sft_cli.scoring.instructions.text import STRIPPED, runs_of_letters, without_punctuation, word_tokens
from sft_cli.scoring.instructions.word_lists import CONJUNCTIONS, PERSON_NAMES, PRONOUNS

PUNCTUATION_MARKS = {".", ",", "!", "?", ";", ":"}
KEYWORD_COUNTS = (1, 2, 3, 5, 7)
"""How often ``keywords_multiple`` wants its five keywords."""
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
"""Hiragana, katakana, and the common Chinese characters."""


def word_count_range(answer: str, *, min_words: int, max_words: int) -> bool:
    """Return whether the number of words is within a range, both ends included."""
    return min_words <= len(runs_of_letters(answer)) <= max_words


def unique_word_count(answer: str, *, N: int) -> bool:
    """Return whether there are at least N different words; all marks that stand alone count as one word."""
    return len({word.strip(STRIPPED) for word in answer.lower().split()}) >= N


def conjunctions(answer: str, *, small_n: int) -> bool:
    """Return whether there are so many coordinating conjunctions; as published, ``and`` differs from ``And,``."""
    return len({word for word in answer.split() if word.strip(STRIPPED).lower() in CONJUNCTIONS}) >= small_n


def person_names(answer: str, *, N: int) -> bool:
    """Return whether at least N of the listed names occur."""
    return sum(1 for name in PERSON_NAMES if re.search(rf"\b{name}\b", answer)) >= N


def numbers(answer: str, *, N: int) -> bool:
    """Return whether there are exactly N numbers; ``1,000.5`` is one."""
    return len(re.findall(r"\d+", without_punctuation(answer))) == N


def words_japanese(answer: str, *, N: int) -> bool:
    """Return whether every N-th word has a Japanese character; numbers and marks that stand alone may be there, too."""
    if N == 0:
        return False
    every_nth = (word.strip(STRIPPED) for word in answer.split()[N - 1 :: N])
    return all(not word or word.isdigit() or _JAPANESE.search(word) for word in every_nth)


def pronouns(answer: str, *, N: int) -> bool:
    """Return whether there are at least N pronouns; ``she/her`` are two."""
    tokens = word_tokens(answer.replace("/", " ").lower())
    return sum(1 for token in tokens if token in PRONOUNS) >= N


def punctuation(answer: str) -> bool:
    """Return whether all punctuation marks occur, and an interrobang whose parts are not counted again."""
    rest = answer
    for interrobang in ("?!", "!?"):
        if interrobang in answer:
            rest = answer.replace(interrobang, "", 1)
            break
    else:
        if "‽" not in answer:
            return False
    return set(rest) >= PUNCTUATION_MARKS


def keywords_multiple(
    answer: str, *, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str
) -> bool:
    """Return whether the keywords occur exactly 1, 2, 3, 5 and 7 times, also within words."""
    keywords = (keyword1, keyword2, keyword3, keyword4, keyword5)
    found = tuple(answer.lower().count(keyword.strip().lower()) for keyword in keywords)
    return found == KEYWORD_COUNTS
