"""Regular expressions for many fixed strings at once."""

import re
from collections.abc import Iterable


def any_of(strings: Iterable[str]) -> str:
    """A regular expression for any of the strings, the longest that fits; one that never matches for none.

    Beginnings they share are tried once: Llama 3 has 256 special tokens that begin alike.
    """
    tree: dict[str, list[str]] = {}
    for string in sorted({string for string in strings if string}):
        tree.setdefault(string[0], []).append(string[1:])
    return "|".join(_branch(first, rests) for first, rests in tree.items()) or "(?!)"


def _branch(first: str, rests: list[str]) -> str:
    """A regular expression for ``first`` with any of the ``rests`` behind it."""
    if len(rests) == 1:
        return re.escape(first + rests[0])
    inner = f"(?:{any_of(rests)})"
    return re.escape(first) + (f"{inner}?" if "" in rests else inner)
