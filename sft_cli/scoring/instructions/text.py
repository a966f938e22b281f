"""Split text into sentences and words, detect its language; the libraries are imported when first used.

All data of these libraries is part of their packages: nothing is downloaded.
"""

import re
import string
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

LIBRARIES = ("punkt", "nltk", "langdetect", "emoji", "syllapy", "textblob")
"""Modules that the checkers need."""
LANGUAGE_SEED = 0
"""The language detector samples n-grams of the text."""
STRIPPED = string.punctuation + " "
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=64)
def punkt_sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of an English text, by NLTK's Punkt model."""
    import punkt

    return tuple(punkt.sent_tokenize(text))


@lru_cache(maxsize=64)
def word_tokens(text: str) -> tuple[str, ...]:
    """Return words and punctuation as NLTK's ``word_tokenize`` does: ``don't`` gives ``do`` and ``n't``."""
    tokenize = _word_tokenizer()
    return tuple(token for sentence in punkt_sentences(text) for token in tokenize(sentence))


@cache
def _word_tokenizer() -> Callable[[str], list[str]]:
    """Return NLTK's tokenizer of one sentence."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer().tokenize


def runs_of_letters(text: str) -> list[str]:
    """Return the runs of letters, digits and underscores: ``don't`` gives ``don`` and ``t``."""
    return _WORD.findall(text)


def without_punctuation(text: str) -> str:
    """Return a text without ASCII punctuation."""
    return text.translate(_NO_PUNCTUATION)


def without_accents(text: str) -> str:
    """Return the ASCII part of a text whose accents are removed: ``São`` gives ``Sao``."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


@lru_cache(maxsize=256)
def detected_language(text: str) -> str | None:
    """Return the language code of a text, the same in every run; None if it has nothing to detect."""
    from langdetect import LangDetectException

    detector = _language_factory().create()
    try:
        detector.append(text)
        return str(detector.detect())
    except LangDetectException:
        return None


@cache
def _language_factory() -> Any:
    """Return langdetect's factory with all its languages and a fixed seed, apart from its global one."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.set_seed(LANGUAGE_SEED)
    factory.load_profile(PROFILES_DIRECTORY)
    return factory


@cache
def detectable_languages() -> frozenset[str]:
    """Return the codes of the languages that can be detected, and ``zh`` for both Chinese ones."""
    from langdetect.detector_factory import PROFILES_DIRECTORY

    return frozenset(file.name for file in Path(PROFILES_DIRECTORY).iterdir() if file.is_file()) | {"zh"}


def is_emoji(character: str) -> bool:
    """Return whether a character is an emoji by itself."""
    import emoji

    return emoji.is_emoji(character)


def count_syllables(word: str) -> int:
    """Return the number of syllables of an English word; 0 if it has digits."""
    import syllapy

    return syllapy.count(word)


def starts_with_verb(text: str) -> bool:
    """Return whether the first word of an English text is tagged as a verb in any form."""
    from textblob.en import tag

    sentences = punkt_sentences(text)
    words = " ".join(word_tokens(sentences[0])) if sentences else ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the tagger leaves its lexicon open while it reads it
        tags = tag(words[:1].lower() + words[1:], tokenize=False)
    return bool(tags) and tags[0][1].startswith("VB")
