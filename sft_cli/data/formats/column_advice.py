"""What to do where no format fits a file's columns: the ``columns`` map that makes one fit, ready to be pasted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats.column_names import ALIASES, by_alias, by_spelling, find_columns, fold_name
from sft_cli.data.formats.registry import FORMATS, Format

QUESTION_NAMES = ("prompt", *ALIASES["prompt"], "user", "ticket", "title")
ANSWER_NAMES = ("completion", *ALIASES["completion"], "assistant", "summary", "label")
METADATA_NAMES = (
    "id",
    "ids",
    "uuid",
    "idx",
    "index",
    "unnamed: 0",
    "url",
    "source",
    "lang",
    "language",
    "date",
    "split",
)
"""Columns that are neither a question nor an answer."""
KNOWN_NAMES = frozenset(name for row_format in FORMATS.values() for name in row_format.reads)
"""Every name that formats read."""
FORMATS_HINT = "`sft formats` lists what each format needs"

Find = Callable[[str, Sequence[str]], str | None]
"""From a format's name and the columns that are left to the one that is meant."""


class Advice(NamedTuple):
    """What is added to the problem, and what to do."""

    detail: str
    fix: str


def advise_columns(present: Sequence[str], mapped: Mapping[str, str], names: Iterable[str], source: str) -> Advice:
    """What to do about columns that no format fits.

    Args:
        present: The columns, in the file's order.
        mapped: The source's ``columns``.
        names: Formats that know every mapped name.
        source: Name of the source in the mix.
    """
    key, names = f"data.mix.{source}.columns", list(names)
    for name in names:
        if pairs := _fitting_columns(FORMATS[name], present, mapped, by_alias):
            return Advice("", f"{format_override(key, pairs)}; {FORMATS_HINT}")
    for name in names:
        if pairs := _fitting_columns(FORMATS[name], present, mapped, _by_spelling):
            wanted = ", ".join(field for field in pairs if field not in mapped)
            return Advice(f"; the nearest is {name}, which needs {wanted}", format_override(key, pairs))
    if {"role", "from"} & set(map(fold_name, present)):
        return Advice(
            "; each row seems to be one message",
            "gather the messages of a conversation in one row, as a list under messages, or join them in `format`",
        )
    question, answer = question_and_answer(present)
    if answer is None:
        return Advice(
            f"; {question!r} alone has no answer", f"give every row an answer, in a column completion; {FORMATS_HINT}"
        )
    columns = format_override(key, _prompt_completion(question, answer))
    return Advice("", f"if {question!r} asks and {answer!r} answers: {columns}; {FORMATS_HINT}")


def question_and_answer(present: Sequence[str]) -> tuple[str, str | None]:
    """The column that most likely asks, and the one that answers; None for it where there is one column."""
    left = [column for column in present if fold_name(column) not in METADATA_NAMES] or list(present)
    answer = next((column for name in ANSWER_NAMES for column in left if fold_name(column) == name), None)
    question = next(
        (column for name in QUESTION_NAMES for column in left if fold_name(column) == name and column != answer), None
    )
    question = question or next((column for column in left if column != answer), None)
    if answer is not None and question is None:
        others = [column for column in present if column != answer]
        return (others[0], answer) if others else (answer, None)
    assert question is not None, "there is a column"
    return question, answer or next((column for column in left if column != question), None)


def _by_spelling(name: str, left: Sequence[str]) -> str | None:
    """A column whose name is nearly the format's, and no other name that formats read."""
    return by_spelling(name, [column for column in left if fold_name(column) not in KNOWN_NAMES])


def _prompt_completion(question: str, answer: str) -> dict[str, str]:
    return {"prompt": question, "completion": answer}


def _fitting_columns(
    row_format: Format, present: Sequence[str], mapped: Mapping[str, str], find: Find
) -> dict[str, str] | None:
    """The ``columns`` map under which a format fits, names that are right left out; None where it would not."""
    found = find_columns(row_format.reads, mapped, present)
    renamed: dict[str, str] = {}
    for name in row_format.reads:
        left = [column for column in present if column not in (*found.values(), *renamed.values())]
        if name not in found and (column := find(name, left)) is not None:
            renamed[name] = column
    whole = {**found, **renamed}
    unexplained = set(map(fold_name, present)) - set(map(fold_name, whole.values()))
    if (
        not renamed
        or not set(row_format.required) <= whole.keys()
        or not unexplained.isdisjoint(row_format.conflicting)
    ):
        return None
    return {**{name: column for name, column in mapped.items() if column in present}, **renamed}
