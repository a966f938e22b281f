"""Detect the language of a text with py3langid (its bundled model; no network)."""

import re
from functools import cache
from typing import Any, NamedTuple

MIN_LETTERS = 15
"""Letters below which a guess is no better than chance; an East Asian character counts as three."""
EAST_ASIA = "\u2e80"
"""The first character of the East Asian scripts."""
NON_LANGUAGE = re.compile(
    r"```.*?(?:```|\Z)"  # code blocks
    r"|`[^`\n]*`"
    r"|\$\$.*?\$\$|\\\(.*?\\\)|\\\[.*?\\\]"  # formulas
    r"|\w+://\S+|\S+@\S+"
    r"|<[^<>\n]{1,80}>"  # markup and placeholders
    r"|[^\W_]*\d\w*",
    re.DOTALL,
)
"""Text that has no natural language."""


class DetectedLanguage(NamedTuple):
    """A language (None if undecided), and the model's confidence in the most likely one (0 to 1)."""

    language: str | None
    confidence: float


@cache
def language_identifier() -> Any:
    """Return the model of py3langid for all its languages, with confidences."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def without_code(text: str, most: int) -> str:
    """Return the first ``most`` characters without the parts that have no natural language."""
    return NON_LANGUAGE.sub(" ", text[:most])


def detect_language(text: str, min_confidence: float) -> DetectedLanguage:
    """Return the language of a text; undecided below the confidence, or with too few letters."""
    if sum(3 if character >= EAST_ASIA else 1 for character in text if character.isalpha()) < MIN_LETTERS:
        return DetectedLanguage(None, 0.0)
    language, confidence = language_identifier().classify(text)
    return DetectedLanguage(
        str(language) if confidence >= min_confidence and language != "zxx" else None, float(confidence)
    )
