"""The meaning of columns that no format reads, by the words of their names: media, preferences, metadata."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """A meaning of a column that a row must not lose.

    Attributes:
        description: A few words, for the error.
        words: Words of a column's name that indicate it.
        named: Whether such a column is refused even if the user named the format.
    """

    description: str
    words: frozenset[str]
    named: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEDIA = Meaning(
    "images, sound or video",
    _words("image images img imgs picture pictures photo photos pixel audio audios speech sound wav video videos"),
    named=True,
)
PREFERENCE = Meaning(
    "a judgement of the answer, or a label", _words("label labels rejected reject preference kto"), named=True
)
MEANINGS = (
    MEDIA,
    PREFERENCE,
    Meaning("a preferred answer", _words("chosen preferred")),
    Meaning("which tokens carry loss", _words("loss masked train training trainable mask masks")),
    Meaning(
        "reasoning",
        _words(
            "reasoning thinking think thought thoughts cot rationale rationales explanation explanations justification"
            " scratchpad analysis channel solution solutions"
        ),
    ),
    Meaning(
        "an answer",
        _words(
            "output outputs answer answers response responses completion completions target targets reply replies"
            " summary summaries highlights headline translation"
        ),
    ),
    Meaning(
        "a part of the prompt",
        _words("system sys tool tools function functions context passage history choices options input inputs"),
    ),
)
"""Meanings of columns, in the order in which they are looked for."""
ABOUT = _words(
    "id ids idx index uid uuid guid url urls link uri domain title name source src origin dataset subset split config"
    " lang language languages locale date time timestamp created updated year author authors license licence copyright"
    " meta metadata score scores quality perplexity ppl count counts length len size num n tokens chars words bytes"
    " file filename path hash md5 sha sha1 sha256 version model type kind page offset dump crawl mime fingerprint"
    " keywords repo stars forks"
)
"""Last words of the names of metadata columns."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+|\d+")
EXEMPT = ("parallel_tool_calls", "special_tokens_mask")
"""Columns whose names only seem to have a meaning: request parameters, and outputs of tokenizers."""


def column_words(column: str) -> list[str]:
    """Return the words of a column's name in lower case: ``imagePath`` and ``image_path`` give ``image``, ``path``."""
    return [word.casefold() for word in WORD.findall(column)]


@lru_cache(maxsize=1000)
def column_meaning(column: str) -> Meaning | None:
    """Return the meaning of a column; None for a column without one, or with metadata (``answer_id``)."""
    words = [word for word in column_words(column) if not word.isdigit()]
    if column in EXEMPT:
        return None
    for meaning in MEANINGS:
        if not meaning.words.isdisjoint(words):
            metadata = not meaning.named and words[-1] in ABOUT
            return None if metadata else meaning
    return None


def is_metadata(column: str) -> bool:
    """Return whether a column is metadata of a document: its id, source, date, length, or pandas' index."""
    words = [word for word in column_words(column) if not word.isdigit()]
    return not words or words[-1] in ABOUT or words in (["unnamed"], ["index", "level"])


def column_has_value(value: Any, meaning: Meaning | None) -> bool:
    """Return whether a value has content; for media columns 0 and false have none."""
    if isinstance(value, str):
        return bool(value.strip())
    if value is None or (isinstance(value, list | dict) and not value):
        return False
    return bool(value) if meaning is MEDIA else True


def ignores_media(values: Mapping[str, Any], ignored: Iterable[str]) -> bool:
    """Return whether an ignored column holds images, sound or video."""
    return any(column_meaning(column) is MEDIA and column_has_value(values[column], MEDIA) for column in ignored)
