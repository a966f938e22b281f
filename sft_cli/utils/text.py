"""Texts: common prefixes, patterns of many strings, JSON values, and numbers for messages."""

import json
import re
from collections.abc import Iterable
from typing import Any


def any_of(strings: Iterable[str]) -> str:
    """A regular expression for any of the strings, the longest that fits; one that never matches for none.

    Beginnings they share are tried once: Llama 3 has 256 special tokens that begin alike.
    """
    tree: dict[str, list[str]] = {}
    for string in sorted({string for string in strings if string}):
        tree.setdefault(string[0], []).append(string[1:])
    return "|".join(_branch(first, rests) for first, rests in tree.items()) or "(?!)"


def _branch(first: str, rests: list[str]) -> str:
    """A regular expression for ``first`` with any of the ``rests`` after it."""
    if len(rests) == 1:
        return re.escape(first + rests[0])
    inner = f"(?:{any_of(rests)})"
    return re.escape(first) + (f"{inner}?" if "" in rests else inner)


def common_prefix_length(one: str, other: str) -> int:
    """Characters that two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


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


def percent(share: float) -> str:
    """A share as ``12.3%``."""
    return f"{share:.1%}"


def duration(seconds: float) -> str:
    """``7 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
