"""Propose a ``columns`` map, ready to be pasted, where no format fits the columns of a file."""

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
"""Every column name that a format reads."""
FORMATS_HINT = "`sft formats` lists what each format needs"

FindColumn = Callable[[str, Sequence[str]], str | None]
"""Map a format's column name and the unused columns of the file to the matching column, or None."""


class Advice(NamedTuple):
    """An addition to the error's problem, and its fix."""

    detail: str
    fix: str


def advise_columns(present: Sequence[str], mapped: Mapping[str, str], names: Iterable[str], source: str) -> Advice:
    """Return advice for columns that no format fits.

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
            "collect the messages of a conversation in one row, as a list under messages, or join them in `format`",
        )
    question, answer = question_and_answer(present)
    if answer is None:
        return Advice(
            f"; there is no column for the answer to {question!r}",
            f"add a column completion with an answer in every row; {FORMATS_HINT}",
        )
    columns = format_override(key, _prompt_completion(question, answer))
    return Advice("", f"if {question!r} is the question and {answer!r} the answer: {columns}; {FORMATS_HINT}")


def question_and_answer(present: Sequence[str]) -> tuple[str, str | None]:
    """Return the likely question column and the likely answer column (None if there is only one column)."""
    candidates = [column for column in present if fold_name(column) not in METADATA_NAMES] or list(present)
    answer = next((column for name in ANSWER_NAMES for column in candidates if fold_name(column) == name), None)
    question = next(
        (column for name in QUESTION_NAMES for column in candidates if fold_name(column) == name and column != answer),
        None,
    )
    question = question or next((column for column in candidates if column != answer), None)
    if answer is not None and question is None:
        others = [column for column in present if column != answer]
        return (others[0], answer) if others else (answer, None)
    assert question is not None, "there is a column"
    return question, answer or next((column for column in candidates if column != question), None)


def _by_spelling(name: str, columns: Sequence[str]) -> str | None:
    """Return the column whose name is nearly the format's and that no format reads; None for no match."""
    return by_spelling(name, [column for column in columns if fold_name(column) not in KNOWN_NAMES])


def _prompt_completion(question: str, answer: str) -> dict[str, str]:
    """Return the ``columns`` map of the format ``prompt_completion``."""
    return {"prompt": question, "completion": answer}


def _fitting_columns(
    row_format: Format, present: Sequence[str], mapped: Mapping[str, str], find: FindColumn
) -> dict[str, str] | None:
    """Return the ``columns`` map under which a format fits, without the names that match already; None if none does."""
    matched = find_columns(row_format.reads, mapped, present)
    renamed: dict[str, str] = {}
    for name in row_format.reads:
        unused = [column for column in present if column not in (*matched.values(), *renamed.values())]
        if name not in matched and (column := find(name, unused)) is not None:
            renamed[name] = column
    complete = {**matched, **renamed}
    unexplained = set(map(fold_name, present)) - set(map(fold_name, complete.values()))
    if (
        not renamed
        or not set(row_format.required) <= complete.keys()
        or not unexplained.isdisjoint(row_format.conflicting)
    ):
        return None
    return {**{name: column for name, column in mapped.items() if column in present}, **renamed}
