"""IFEval: keywords, letters, capitals and language, each as published and corrected."""

import random
import re
import string

from sft_cli.scoring.instructions.base import Language, Relation, satisfies
from sft_cli.scoring.instructions.ifeval_format import as_pattern
from sft_cli.scoring.instructions.text import detected_language, word_tokens


def existence(answer: str, *, keywords: tuple[str, ...]) -> bool:
    """Return whether every keyword occurs, also within words; a keyword is a pattern."""
    return all(re.search(as_pattern(keyword), answer, re.IGNORECASE) for keyword in keywords)


def existence_literal(answer: str, *, keywords: tuple[str, ...]) -> bool:
    """Return whether every keyword occurs, also within words."""
    return all(re.search(re.escape(keyword), answer, re.IGNORECASE) for keyword in keywords)


def frequency(answer: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """Return whether a keyword occurs often enough, also within words; it is a pattern."""
    found = re.finditer(as_pattern(keyword.strip()), answer, re.IGNORECASE)
    return satisfies(sum(1 for _ in found), relation, frequency)


def frequency_literal(answer: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """Return whether a keyword occurs often enough, also within words."""
    found = re.finditer(re.escape(keyword.strip()), answer, re.IGNORECASE)
    return satisfies(sum(1 for _ in found), relation, frequency)


def forbidden_words(answer: str, *, forbidden_words: tuple[str, ...]) -> bool:
    """Return whether none of the words occurs as a whole word; a word is a pattern."""
    return not any(re.search(rf"\b{as_pattern(word)}\b", answer, re.IGNORECASE) for word in forbidden_words)


def forbidden_words_literal(answer: str, *, forbidden_words: tuple[str, ...]) -> bool:
    """Return whether none of the words occurs as a whole word."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(answer: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """Return whether a letter occurs often enough, in any case.

    As published, a random letter is counted instead of anything but one letter of the English alphabet. Here it is
    drawn with a seed, so that every run counts the same one.
    """
    return satisfies(answer.lower().count(counted_letter(letter)), let_relation, let_frequency)


def counted_letter(letter: str) -> str:
    """Return the letter that the published check counts, in lower case."""
    if len(letter) == 1 and letter.lower() in string.ascii_lowercase:
        return letter.lower()
    return random.Random(f"letter {letter}").choice(string.ascii_lowercase)


def character_frequency(answer: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """Return whether a letter or another character occurs often enough, in any case."""
    return satisfies(answer.lower().count(letter.strip().lower()), let_relation, let_frequency)


def capital_word_frequency(answer: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """Return whether the number of words in capitals is less than, or at least, a bound."""
    capitals = sum(1 for token in word_tokens(answer) if token.isupper())
    return satisfies(capitals, capital_relation, capital_frequency)


def english_capital(answer: str) -> bool:
    """Return whether the answer is English in capitals; as published, a language that cannot be detected is fine."""
    return answer.isupper() and detected_language(answer) in ("en", None)


def english_capital_detected(answer: str) -> bool:
    """Return whether the answer is English in capitals."""
    return answer.isupper() and detected_language(answer) == "en"


def english_lowercase(answer: str) -> bool:
    """Return whether the answer is English without capitals; as published, an undetectable language is fine."""
    return answer.islower() and detected_language(answer) in ("en", None)


def english_lowercase_detected(answer: str) -> bool:
    """Return whether the answer is English without capitals."""
    return answer.islower() and detected_language(answer) == "en"


def response_language(answer: str, *, language: Language) -> bool:
    """Return whether the answer is in a language; as published, a language that cannot be detected is fine."""
    return detected_language(answer) in (language, None)


def response_language_detected(answer: str, *, language: Language) -> bool:
    """Return whether the answer is in a language; ``zh`` stands for both ``zh-cn`` and ``zh-tw``."""
    detected = detected_language(answer) or ""
    return detected == language or detected.partition("-")[0] == language
