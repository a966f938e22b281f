"""Texts: common prefixes, patterns of many strings, JSON values, and numbers for messages."""

import json
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any


def any_of(strings: Iterable[str]) -> str:
    """Return a regular expression for any of the strings, preferring the longest; for none, one that never matches.

    Shared prefixes are matched once: Llama 3 has 256 special tokens with the same prefix.
    """
    return _any_of(frozenset(strings))


@lru_cache(64)
def _any_of(strings: frozenset[str]) -> str:
    """Return ``any_of`` a set; the special tokens of a tokenizer are asked for many times."""
    return _alternatives(strings)


def _alternatives(strings: Collection[str]) -> str:
    """Return a regular expression for any of the strings, without duplicates."""
    tree: dict[str, list[str]] = {}
    for string in sorted(string for string in strings if string):
        tree.setdefault(string[0], []).append(string[1:])
    return "|".join(_branch(first, rests) for first, rests in tree.items()) or "(?!)"


def _branch(first: str, rests: list[str]) -> str:
    """Return a regular expression for ``first`` followed by any of the ``rests``."""
    if len(rests) == 1:
        return re.escape(first + rests[0])
    inner = f"(?:{_alternatives(rests)})"
    return re.escape(first) + (f"{inner}?" if "" in rests else inner)


def common_prefix_length(first: str, second: str) -> int:
    """Return the number of characters that two texts have in common at the start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def parse_json(text: str) -> Any:
    """Return the JSON value of a text; ``ValueError`` if it is not JSON or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_or_none(text: str) -> Any:
    """Return the JSON value of a text, or None if it is not JSON."""
    try:
        return parse_json(text)
    except ValueError:
        return None


def excerpt(text: str, length: int, *, tail: bool = False) -> str:
    """Return at most ``length`` characters of a text on one line: its beginning, or with ``tail`` its end.

    Unprintable characters are replaced: a model may generate anything, including control characters of the terminal.
    """
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split())) or "(blank)"
    if len(line) <= length:
        return line
    return f"…{line[-length:]}" if tail else f"{line[:length]}…"


def percent(share: float) -> str:
    """Return a share as ``12.3%``."""
    return f"{share:.1%}"


def time_left(seconds: float) -> str:
    """Return a remaining time as ``duration`` does, in steps of 5 s between 10 s and 100 s: it is an estimate."""
    return duration(5 * round(seconds / 5) if 10 <= seconds < 100 else seconds)


def duration(seconds: float) -> str:
    """Return a duration as ``7 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
