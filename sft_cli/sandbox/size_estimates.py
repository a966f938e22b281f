"""Estimate the size of results of Jinja's filters and Python's methods before they are called."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sft_cli.sandbox.budget import CHARACTERS_PER_STEP, BudgetExceeded, RenderBudget

MAX_WIDTH = 10_000
"""Largest number that sets the length of a text: columns, fields of a line, digits."""
CALL_STEPS = 30
"""Steps of a filter or method call."""
_EXPENSIVE = {
    "urlize": 500,
    "wordwrap": 500,
    "pprint": 500,
    "striptags": 100,
    "xmlattr": 100,
    "tojson": 100,
    "groupby": 100,
}
MAX_INPUT = {"urlize": 10_000, "striptags": 100_000, "wordwrap": 100_000, "pprint": 100_000}
"""Most characters for filters whose time grows with the square of the length."""
MAX_SEARCHED = 1_000
"""Most characters to search for from the end, or to strip: the time grows with their number times the text's length."""
_SEARCHING = ("strip", "lstrip", "rstrip", "trim", "rfind", "rindex", "rsplit", "rpartition")
_PADDED = ("center", "ljust", "rjust", "zfill", "batch", "slice", "round", "to_bytes", "tojson", "indent", "expandtabs")
_CODECS = ("utf-8", "utf8", "ascii", "latin-1")
_NUMBER = re.compile(r"\d{5}|\*")


def check_call(budget: RenderBudget, name: str, value: Any, arguments: Sequence[Any]) -> None:
    """Reject a filter or method call whose result would be too large.

    Args:
        budget: The budget of the rendering.
        name: Name of the filter, or of the method of a text, number or list.
        value: Value that it is applied to.
        arguments: All other arguments, keyword arguments last.
    """
    budget.spend(_EXPENSIVE.get(name, CALL_STEPS))
    if name not in _CHECKED:
        budget.charge(value)
        return
    size = budget.size(value)
    budget.spend(1 + size // CHARACTERS_PER_STEP)
    if size > MAX_INPUT.get(name, size):
        raise BudgetExceeded(f"passes {size:,} characters to {name}")
    if arguments:
        _check_arguments(name, arguments)
    growth = _GROWTH.get(name)
    if growth is not None:
        budget.check_size(size + growth(budget, value, arguments))


def _check_arguments(name: str, arguments: Sequence[Any]) -> None:
    """Reject arguments with which a filter or method would be too slow or its result too large."""
    numbers = [abs(argument) for argument in arguments if isinstance(argument, int)]
    texts = [argument for argument in arguments if isinstance(argument, str | bytes)]
    if name in _SEARCHING and any(len(text) > MAX_SEARCHED for text in texts):
        raise BudgetExceeded(f"searches with {name} for more than {MAX_SEARCHED:,} characters")
    if name in _PADDED and any(number > MAX_WIDTH for number in numbers):
        raise BudgetExceeded(f"passes the number {max(numbers)} to {name}")
    if name in ("encode", "decode") and any(text not in _CODECS for text in texts[:1]):
        raise BudgetExceeded(f"encodes in {texts[0]!r:.40}")
    if name == "sum" and any(isinstance(argument, list | tuple) for argument in arguments):
        raise BudgetExceeded("adds up lists with sum")


def check_format(budget: RenderBudget, text: str | bytes, arguments: Any) -> None:
    """Reject ``text % arguments``, or ``text.format(*arguments)``, whose result would be too large."""
    template = text if isinstance(text, str) else text.decode("latin-1")
    if _NUMBER.search(template):
        raise BudgetExceeded("formats with a width of more than four digits")
    values = arguments if isinstance(arguments, tuple | list) else (arguments,)
    widest = max((abs(argument) for argument in values if isinstance(argument, int)), default=0)
    if re.search(r"\{[^{}]*\{", template) and widest > MAX_WIDTH:
        raise BudgetExceeded(f"formats with the width {widest}")
    largest = max((budget.size(argument) for argument in values), default=0)
    budget.check_size(len(template) + (template.count("%") + template.count("{")) * (largest + 32))


def _lines(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Return the characters that indentation adds before the lines."""
    widths = [
        argument if isinstance(argument, int) else len(argument)
        for argument in arguments
        if isinstance(argument, int | str)
    ]
    return (value.count("\n") + 1) * max(widths, default=4) if isinstance(value, str) else 0


def _tabs(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Return the characters that expanding tabs adds."""
    width = max((abs(argument) for argument in arguments if isinstance(argument, int)), default=8)
    return len(value) * width if isinstance(value, str | bytes) else 0


def _replaced(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Return the characters that replacing adds."""
    old, new = (*arguments, "", "")[:2]
    if isinstance(value, bytes) and isinstance(old, bytes):
        return value.count(old) * budget.size(new)
    return str(value).count(old) * budget.size(new) if isinstance(old, str) else 0


def _joined(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Return the characters of ``text.join(list)`` or ``list | join(text)``."""
    values = [value, *arguments]
    count = max((len(argument) for argument in values if isinstance(argument, list | tuple | dict | str)), default=0)
    longest = max((len(argument) for argument in values if isinstance(argument, str | bytes)), default=0)
    return sum(budget.size(argument) for argument in arguments) + (count * longest if longest else 0)


def _translated(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Return the characters of a translated text."""
    table = arguments[0] if arguments else None
    longest = (
        max((budget.size(argument) for argument in table.values()), default=0) if isinstance(table, Mapping) else 1
    )
    return budget.size(value) * longest


def _wrapped(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Return the characters of text inserted into or around every part of a text."""
    return budget.size(value) * max((len(argument) for argument in arguments if isinstance(argument, str)), default=0)


def _percent(budget: RenderBudget, value: Any, arguments: Sequence[Any]) -> int:
    """Check the arguments of the filter ``format``, and return 0."""
    check_format(budget, str(value) if isinstance(value, str) else "", tuple(arguments))
    return 0


_GROWTH: Mapping[str, Callable[[RenderBudget, Any, Sequence[Any]], int]] = {
    "indent": _lines,
    "expandtabs": _tabs,
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
    "wordwrap": _wrapped,
    "urlize": _wrapped,
    "format": _percent,
}
_CHECKED = {*_SEARCHING, *_PADDED, *MAX_INPUT, *_GROWTH, "encode", "decode", "sum"}
"""Checked filters and methods; all others return nothing larger than their input."""
