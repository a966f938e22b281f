"""Quote overrides for a shell: ``'data.mix.mine.columns={prompt: Ticket}'``."""

import re
from collections.abc import Mapping, Sequence

_BARE = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
"""A text that the grammar of values reads unchanged without quotes."""
_SAFE = re.compile(r"[\w.,:/@%+=-]+", re.ASCII)
"""A word that a shell reads unchanged."""
_OTHERS = ("null", "true", "false", "nan", "inf")
"""Words that the grammar reads as something other than text."""


def format_override(key: str, value: str | int | float | Sequence[str] | Mapping[str, str]) -> str:
    """Return ``key=value`` for a text, a number, a list of texts or a mapping of texts, quoted for a shell."""
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{name}: {_text(entry)}" for name, entry in value.items()) + "}"
    elif isinstance(value, str):
        text = value
    elif isinstance(value, Sequence):
        text = "[" + ", ".join(_text(entry) for entry in value) + "]"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return quote_override(f"{key}={text}")


def quote_override(word: str) -> str:
    """Return a word quoted for a POSIX shell."""
    return word if _SAFE.fullmatch(word) else "'" + word.replace("'", "'\"'\"'") + "'"


def _text(value: str) -> str:
    """Return a text as an element of a list or mapping."""
    if _BARE.fullmatch(value) and value.lower() not in _OTHERS:
        return value
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" if found[2] else "") + found[2], value)
    return f'"{escaped}"'
