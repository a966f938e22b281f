"""What Jinja's filters and Python's methods would make of their arguments, estimated before they are called."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_cli.sandbox.budget import PER_STEP, Budget, TooMuch

WIDEST = 10_000
"""Columns, fields of a line, digits: numbers that filters and methods make texts of."""
CALL = 30
"""Steps of a filter or method, whatever it is given."""
_DEAR = {"urlize": 500, "wordwrap": 500, "pprint": 500, "striptags": 100, "xmlattr": 100, "tojson": 100, "groupby": 100}
LONGEST = {"urlize": 10_000, "striptags": 100_000, "wordwrap": 100_000, "pprint": 100_000}
"""Characters that filters take whose time grows with the square of them."""
SOUGHT = 1_000
"""Characters of what is looked for from behind, or stripped: time grows with their product with the text's."""
_FROM_BEHIND = ("strip", "lstrip", "rstrip", "trim", "rfind", "rindex", "rsplit", "rpartition")
_PADDED = ("center", "ljust", "rjust", "zfill", "batch", "slice", "round", "to_bytes", "tojson", "indent", "expandtabs")
_CODECS = ("utf-8", "utf8", "ascii", "latin-1")
_NUMBER = re.compile(r"\d{5}|\*")


def check(budget: Budget, name: str, value: Any, arguments: Sequence[Any]) -> None:
    """Refuse a filter or method that would make too much of its value.

    Args:
        budget: What the rendering may cost.
        name: Of the filter, or of the method of a text, number or list.
        value: What it is applied to.
        arguments: All others, those by name behind those by place.
    """
    budget.spend(_DEAR.get(name, CALL))
    if name not in _RULED:
        budget.kept(value)
        return
    size = budget.size(value)
    budget.spend(1 + size // PER_STEP)
    if size > LONGEST.get(name, size):
        raise TooMuch(f"gives {name} {size:,} characters")
    if arguments:
        _check_arguments(name, arguments)
    grown = _GROWN.get(name)
    if grown is not None:
        budget.expected(size + grown(budget, value, arguments))


def _check_arguments(name: str, arguments: Sequence[Any]) -> None:
    """Refuse arguments with which a filter or method would take too long or make too much."""
    numbers = [abs(one) for one in arguments if isinstance(one, int)]
    texts = [one for one in arguments if isinstance(one, str | bytes)]
    if name in _FROM_BEHIND and any(len(text) > SOUGHT for text in texts):
        raise TooMuch(f"gives {name} more than {SOUGHT:,} characters to look for")
    if name in _PADDED and any(number > WIDEST for number in numbers):
        raise TooMuch(f"gives {name} the number {max(numbers)}")
    if name in ("encode", "decode") and any(text not in _CODECS for text in texts[:1]):
        raise TooMuch(f"encodes in {texts[0]!r:.40}")
    if name == "sum" and any(isinstance(one, list | tuple) for one in arguments):
        raise TooMuch("adds up lists with sum")


def formatted(budget: Budget, text: str | bytes, arguments: Any) -> None:
    """Refuse ``text % arguments``, or ``text.format(*arguments)``, that would make too much."""
    shown = text if isinstance(text, str) else text.decode("latin-1")
    if _NUMBER.search(shown):
        raise TooMuch("formats with a width of more than four digits")
    held = arguments if isinstance(arguments, tuple | list) else (arguments,)
    widest = max((abs(one) for one in held if isinstance(one, int)), default=0)
    if re.search(r"\{[^{}]*\{", shown) and widest > WIDEST:
        raise TooMuch(f"formats with the width {widest}")
    largest = max((budget.size(one) for one in held), default=0)
    budget.expected(len(shown) + (shown.count("%") + shown.count("{")) * (largest + 32))


def _lines(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    """Indentation: what stands before each line."""
    widths = [one if isinstance(one, int) else len(one) for one in arguments if isinstance(one, int | str)]
    return (value.count("\n") + 1) * max(widths, default=4) if isinstance(value, str) else 0


def _tabs(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    width = max((abs(one) for one in arguments if isinstance(one, int)), default=8)
    return len(value) * width if isinstance(value, str | bytes) else 0


def _replaced(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    old, new = (*arguments, "", "")[:2]
    if isinstance(value, bytes) and isinstance(old, bytes):
        return value.count(old) * budget.size(new)
    return str(value).count(old) * budget.size(new) if isinstance(old, str) else 0


def _joined(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    """``text.join(list)``, or ``list | join(text)``."""
    held = [value, *arguments]
    count = max((len(one) for one in held if isinstance(one, list | tuple | dict | str)), default=0)
    longest = max((len(one) for one in held if isinstance(one, str | bytes)), default=0)
    return sum(budget.size(one) for one in arguments) + (count * longest if longest else 0)


def _translated(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    table = arguments[0] if arguments else None
    longest = max((budget.size(one) for one in table.values()), default=0) if isinstance(table, Mapping) else 1
    return budget.size(value) * longest


def _wrapped(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    """Text put into or around every part of a text."""
    return budget.size(value) * max((len(one) for one in arguments if isinstance(one, str)), default=0)


def _percent(budget: Budget, value: Any, arguments: Sequence[Any]) -> int:
    formatted(budget, str(value) if isinstance(value, str) else "", tuple(arguments))
    return 0


_GROWN: Mapping[str, Callable[[Budget, Any, Sequence[Any]], int]] = {
    "indent": _lines,
    "expandtabs": _tabs,
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
    "wordwrap": _wrapped,
    "urlize": _wrapped,
    "format": _percent,
}
_RULED = {*_FROM_BEHIND, *_PADDED, *LONGEST, *_GROWN, "encode", "decode", "sum"}
"""All others make nothing larger than what they are given."""
