"""What to do where no format fits a file's columns: the ``columns`` map that makes one fit, ready to be pasted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats.column_names import OTHER_NAMES, by_other_name, by_spelling, find_columns, fold
from sft_cli.data.formats.registry import FORMATS, Format

ASKED = ("prompt", *OTHER_NAMES["prompt"], "user", "ticket", "title")
SAID = ("completion", *OTHER_NAMES["completion"], "assistant", "summary", "label")
BESIDE = ("id", "ids", "uuid", "idx", "index", "unnamed: 0", "url", "source", "lang", "language", "date", "split")
"""Columns that are neither a question nor an answer."""
KNOWN = frozenset(name for shape in FORMATS.values() for name in shape.reads)
"""Every name that formats read."""
LISTS = "`sft formats` lists what each format needs"

Find = Callable[[str, Sequence[str]], str | None]
"""From a format's name and the columns that are left to the one that is meant."""


class Advice(NamedTuple):
    """What is added to the problem, and what to do."""

    more: str
    fix: str


def advise(present: Sequence[str], mapped: Mapping[str, str], names: Iterable[str], source: str) -> Advice:
    """What to do about columns that no format fits.

    Args:
        present: The columns, in the file's order.
        mapped: The source's ``columns``.
        names: Formats that know every mapped name.
        source: Name of the source in the mix.
    """
    key, names = f"data.mix.{source}.columns", list(names)
    for name in names:
        if pairs := _pairs(FORMATS[name], present, mapped, by_other_name):
            return Advice("", f"{format_override(key, pairs)}; {LISTS}")
    for name in names:
        if pairs := _pairs(FORMATS[name], present, mapped, _misspelt):
            wanted = ", ".join(field for field in pairs if field not in mapped)
            return Advice(f"; the nearest is {name}, which needs {wanted}", format_override(key, pairs))
    if {"role", "from"} & set(map(fold, present)):
        return Advice(
            "; each row seems to be one message",
            "gather the messages of a conversation in one row, as a list under messages, or join them in `format`",
        )
    asked, said = question_and_answer(present)
    if said is None:
        return Advice(f"; {asked!r} alone has no answer", f"give every row an answer, in a column completion; {LISTS}")
    return Advice("", f"if {asked!r} asks and {said!r} answers: {format_override(key, _asking(asked, said))}; {LISTS}")


def question_and_answer(present: Sequence[str]) -> tuple[str, str | None]:
    """The column that most likely asks, and the one that answers; None for it where there is one column."""
    left = [column for column in present if fold(column) not in BESIDE] or list(present)
    said = next((column for name in SAID for column in left if fold(column) == name), None)
    asked = next((column for name in ASKED for column in left if fold(column) == name and column != said), None)
    asked = asked or next((column for column in left if column != said), None)
    if said is not None and asked is None:
        others = [column for column in present if column != said]
        return (others[0], said) if others else (said, None)
    assert asked is not None, "there is a column"
    return asked, said or next((column for column in left if column != asked), None)


def _misspelt(name: str, left: Sequence[str]) -> str | None:
    """A column whose name is nearly the format's, and no other name that formats read."""
    return by_spelling(name, [column for column in left if fold(column) not in KNOWN])


def _asking(asked: str, said: str) -> dict[str, str]:
    return {"prompt": asked, "completion": said}


def _pairs(shape: Format, present: Sequence[str], mapped: Mapping[str, str], find: Find) -> dict[str, str] | None:
    """The ``columns`` map under which a format fits, names that are right left out; None where it would not."""
    found = find_columns(shape.reads, mapped, present)
    renamed: dict[str, str] = {}
    for name in shape.reads:
        left = [column for column in present if column not in (*found.values(), *renamed.values())]
        if name not in found and (column := find(name, left)) is not None:
            renamed[name] = column
    whole = {**found, **renamed}
    unexplained = set(map(fold, present)) - set(map(fold, whole.values()))
    if not renamed or not set(shape.required) <= whole.keys() or not unexplained.isdisjoint(shape.unlike):
        return None
    return {**{name: column for name, column in mapped.items() if column in present}, **renamed}
