"""Read the columns of a row under the names of its format, with checks of their types."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import TreeConfig
from sft_cli.data.row_errors import RowError, format_list, short_repr
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Row
from sft_cli.utils.similar import closest_name
from sft_cli.utils.text import parse_json


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """The configuration of how rows are read.

    Attributes:
        separator: Text between an instruction and its input.
        tree: The paths of a tree that become conversations.
        replay: Whether the source is replayed as plain text.
        roles: The source's ``roles``, their names as ``fold_role`` writes them.
    """

    separator: str = "\n\n"
    tree: TreeConfig = field(default_factory=TreeConfig)
    replay: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns of a row under the names its format uses.

    Attributes:
        values: The format's name -> value, of the columns that the row has.
        columns: The format's name -> name in the file.
        row: The row itself.
    """

    values: Mapping[str, Any]
    columns: Mapping[str, str]
    row: Row

    def answer(self, name: str) -> str:
        """Return the text of an answer, which may be empty: the filters of clean/ judge empty answers."""
        return self._checked(name)

    def text(self, name: str) -> str:
        """Return a text that must not be empty."""
        value = self._checked(name)
        if not value.strip():
            raise RowError(
                where=self.row.where,
                reason=f"empty {self.columns[name]}",
                problem=f"field {self.columns[name]!r} is {value!r}; expected non-empty text",
                fix=f"fill in {self.columns[name]!r} or remove the row",
            )
        return value

    def optional(self, name: str) -> str:
        """Return a text, or an empty one when the row has none."""
        value = self.values.get(name)
        return "" if value is None else self._checked(name)

    def _checked(self, name: str) -> str:
        """Return the text of a column, which may be empty."""
        value, column = self.values[name], self.columns[name]
        if is_number(value) and not column.startswith(JINJA):
            error = wrong_type(value, column, "text", self.row.where)
            raise RowError(
                where=error.where, reason=error.reason, problem=error.problem, fix=f"{error.fix}\n{self._as_text(name)}"
            )
        return checked_text(value, column, self.row.where)

    def _as_text(self, name: str) -> str:
        """Return the setting that reads the numbers of a column as text."""
        texts = {}
        for field_name, column in self.columns.items():
            value = column if column.isidentifier() else f"row[{column!r}]"
            if field_name == name:
                value = f"{value} | string if {value} is integer or {value} is float else {value}"
            texts[field_name] = f"{{{{ {value} }}}}"
        key = f"data.mix.{self.row.source}"
        is_mapped = any(field_name != column for field_name, column in self.columns.items())
        instead = f" (in place of {key}.columns)" if is_mapped else ""
        return f"{format_override(f'{key}.format', texts)}  # reads the numbers as text{instead}"


JINJA = "format."
"""Beginning of the names that the fields of a user's Jinja texts have in messages."""

Builder = Callable[[Fields, FormatOptions], tuple[Conversation, ...]]
"""Builds the conversations of a row from its fields: one, unless the row is a tree."""


def check_columns(columns: Mapping[str, str], names: tuple[str, ...], source: str) -> None:
    """Check that every key of a source's ``columns`` is a name that its format reads."""
    for name in columns:
        if name not in names:
            near = closest_name(name, names)
            raise SftError(
                where=f"data.mix.{source}.columns",
                problem=f"unknown name {name!r}; the format reads {format_list(names)}",
                fix=rename_mapped(columns, name, near, source)
                if near
                else "write the format's name first, then the name in the file",
            )


def rename_mapped(columns: Mapping[str, str], name: str, right: str, source: str) -> str:
    """Return the ``columns`` of a source with one of the format's names replaced, ready to be pasted."""
    renamed = {right if known == name else known: column for known, column in columns.items()}
    return format_override(f"data.mix.{source}.columns", renamed)


def parse_list(value: Any) -> Any:
    """Return the list of a JSON text, which is how CSV files hold one; any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def checked_text(value: Any, field: str, where: str) -> str:
    """Return the value if it is text that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise wrong_type(value, field, "text", where)
    if not value.isascii():
        check_unicode(value, field, where)
    return value


def check_unicode(value: str, field: str, where: str) -> None:
    """Check that a text has no lone surrogate (half of a cut emoji), which cannot be tokenized."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(
            where=where,
            reason="broken character",
            problem=f"field {field!r} has a lone surrogate, \\u{ord(value[error.start]):04x}",
            fix="remove it; it is probably half of an emoji that was cut in two",
        ) from error


def wrong_type(value: Any, field: str, expected: str, where: str) -> RowError:
    """Return the error for a value of another type."""
    return RowError(
        where=where,
        reason=f"{field.split('[')[0]} of the wrong type",
        problem=f"field {field!r} is {short_repr(value)} ({_kind(value)}); expected {expected}",
        fix=_type_fix(value, field, expected),
    )


def is_number(value: Any) -> bool:
    """Return whether a value is a number, not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type_fix(value: Any, field: str, expected: str) -> str:
    """Return what to do about a value of another type."""
    if expected == "text" and is_number(value):
        key = field.rpartition(".")[2]
        return f'write it in quotes: "{key}": "{value}"'
    if value is None:
        return "fill it in or remove the row"
    return f"write it as {expected}, or point columns at another column"


def too_deep(row: Row) -> RowError:
    """Return the error for a row whose values are nested deeper than Python can follow."""
    return RowError(
        where=row.where,
        reason="values nested too deeply",
        problem="the values of the row are nested too deeply to be read",
        fix="remove the row",
    )


def _kind(value: Any) -> str:
    """Return the JSON name of a value's type."""
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
