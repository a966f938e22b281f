"""Normalize answers, and compare them exactly."""

import unicodedata

REASONING_END = "</think>"


def normalize_answer(text: str) -> str:
    """Normalize an answer for comparison: no reasoning, no case, no extra spaces, no final full stop.

    The steps: remove everything up to ``</think>``, Unicode NFC, case folding, one space for each run of white space
    and none at the ends, remove one final ``.``. Articles and inner punctuation stay, unlike in SQuAD's metric:
    ``The Who`` is not ``who``.
    """
    answer = text.rpartition(REASONING_END)[2]
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", answer).casefold())
    spaced = " ".join(folded.split())
    return spaced.removesuffix(".").rstrip() or spaced


def is_exact_match(answer: str, expected: str) -> bool:
    """Return whether an answer equals the reference, both normalized."""
    return normalize_answer(answer) == normalize_answer(expected)
