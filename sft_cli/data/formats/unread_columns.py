"""Account for columns and keys that are not read, and refuse those that change the meaning of a row.

Names are compared word by word (``model_reasoning``, ``imagePath``), in any letter case.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import Role, SourceConfig
from sft_cli.data.formats.column_meanings import column_has_value, column_meaning, is_metadata
from sft_cli.data.formats.column_names import ALIASES, fold_name
from sft_cli.data.formats.detect import AUTO
from sft_cli.data.formats.registry import Format
from sft_cli.data.row_errors import format_list
from sft_cli.errors import SftError
from sft_cli.types import Conversation
from sft_cli.utils.similar import closest_name

PLACEHOLDER = re.compile(r"<\|?(image|video|audio)(_pad|_placeholder)?\|?>|\[IMG\]", re.IGNORECASE)
"""The text in a message that marks the position of an image, sound or video of the row."""


def with_placeholder_remark(conversation: Conversation) -> Conversation:
    """Return the conversation, with a remark if a message holds a placeholder of ignored media as plain text."""
    if not any(PLACEHOLDER.search(message.content) for message in conversation.messages):
        return conversation
    return replace(conversation, remarks=(*conversation.remarks, "media_placeholder"))


@dataclass
class UnreadColumns:
    """The unread and ignored columns of the rows read so far.

    Attributes:
        not_read: Column or key that nothing reads -> location of the first row where it has a value, or None.
        ignored: Columns that the source ignores, of those that occurred.
    """

    not_read: dict[str, str | None] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], where: str, not_read: Iterable[str], ignored: Iterable[str]) -> None:
        """Add the columns of one row.

        Args:
            values: The row.
            where: Its location.
            not_read: Its columns that nothing reads.
            ignored: Its columns that the source ignores.
        """
        for column in not_read:
            if self.not_read.get(column) is None:
                has_value = column_has_value(values[column], column_meaning(column))
                self.not_read[column] = where if has_value else None
        for column in ignored:
            self.ignored[column] = None

    def add_keys(self, keys: Iterable[str], where: str) -> None:
        """Add unread keys inside a row, such as ``messages[].id``."""
        for key in keys:
            if self.not_read.get(key) is None:
                self.not_read[key] = where

    def join(self, other: "UnreadColumns") -> None:
        """Add the account of the rows that follow."""
        for column, where in other.not_read.items():
            if self.not_read.get(column) is None:
                self.not_read[column] = where
        self.ignored.update(other.ignored)

    def to_json(self) -> dict[str, Any]:
        """Return the account as JSON values; ``of`` is the inverse."""
        return {"not_read": self.not_read, "ignored": list(self.ignored)}

    def named(self) -> dict[str, list[str]]:
        """Return only the names, for the manifest."""
        return {"not_read": list(self.not_read), "ignored": list(self.ignored)}

    @staticmethod
    def of(values: Mapping[str, Any]) -> "UnreadColumns":
        """Return the account of the values that ``to_json`` returned."""
        return UnreadColumns(dict(values["not_read"]), dict.fromkeys(values["ignored"]))


def load_unread(file: Path) -> UnreadColumns:
    """Return an account that was written as JSON."""
    return UnreadColumns.of(json.loads(file.read_bytes()))


def refuse_meaningful(
    unread: UnreadColumns, config: SourceConfig, source: str, label: str, row_format: Format | None
) -> None:
    """Refuse unread columns that change the meaning of the rows.

    Under a detected format these are columns with any of ``MEANINGS``, and in rows of documents all but metadata; under
    a format that the user named, only media and labels.

    Args:
        unread: The rows read so far.
        config: The source.
        source: Name of the source in the mix.
        label: Label of the format.
        row_format: The format; None if a package decides it per row.

    Raises:
        SftError: There are such columns; the error names all of them, and the first row.
    """
    detected = config.format == AUTO
    only_text = row_format is not None and row_format.document and "input_ids" not in row_format.reads
    is_document = detected and only_text and config.role is not Role.replay
    refused = {
        column: (meaning, where)
        for column, where in unread.not_read.items()
        if where is not None and "[]" not in column
        if (meaning := _why_refused(column, detected, is_document)) is not None
    }
    if not refused:
        return
    format_text = f"the format {label}, detected from the columns," if detected else f"the format {label}"
    columns_text = ", ".join(f"{column!r} ({meaning})" for column, (meaning, _) in refused.items())
    first = next(iter(refused.values()))[1]
    fix = _fix(config, f"data.mix.{source}", list(unread.ignored), list(refused), row_format, is_document)
    raise SftError(where=first, problem=f"{format_text} does not read {columns_text}", fix=fix)


def _why_refused(column: str, detected: bool, is_document: bool) -> str | None:
    """Return the meaning of an unread column that is refused; None for one that is not."""
    meaning = column_meaning(column)
    if meaning is not None:
        return meaning.description if detected or meaning.named else None
    return "it may belong to the text" if is_document and not is_metadata(column) else None


def _fix(
    config: SourceConfig, key: str, ignored: list[str], columns: list[str], row_format: Format | None, is_document: bool
) -> str:
    """Return the setting that reads the refused columns, or that ignores them.

    Args:
        config: The source.
        key: Key of the source.
        ignored: Columns that are ignored already.
        columns: Columns that are refused.
        row_format: The format; None if a package decides it per row.
        is_document: Whether the format was detected and its rows are documents.
    """
    left_out = format_override(f"{key}.ignore", [*ignored, *columns])
    if is_document and row_format is not None:
        text = config.columns.get(row_format.required[0], row_format.required[0])
        prompt_columns = format_override(f"{key}.columns", {"prompt": text, "completion": columns[0]})
        return f"{left_out} trains only the text; {prompt_columns} trains {columns[0]} as the answer to the text"
    for name in () if row_format is None or not isinstance(config.format, str) else row_format.optional:
        alias = next((column for column in columns if fold_name(column) in ALIASES.get(name, ())), None)
        if alias is not None and name not in config.columns:
            mapped = format_override(f"{key}.columns", {**config.columns, name: alias})
            return f"{mapped} reads it as {name}; {left_out} leaves it out"
    them = "it" if len(columns) == 1 else "them"
    return f"{left_out} leaves {them} out on purpose{_instead(config, key, ignored, columns, row_format)}"


def _instead(config: SourceConfig, key: str, ignored: list[str], columns: list[str], row_format: Format | None) -> str:
    """Return how to train a column that holds another answer, or reasoning; empty if none does.

    Args:
        config: The source.
        key: Key of the source.
        ignored: Columns that are ignored already.
        columns: Columns that are refused.
        row_format: The format; None if a package decides it per row.
    """
    kinds = {
        meaning.description: column for column in reversed(columns) if (meaning := column_meaning(column)) is not None
    }
    other_answer = kinds.get("an answer")
    if (
        other_answer is not None
        and row_format is not None
        and isinstance(config.format, str)
        and len(row_format.required) == 2
    ):
        field = row_format.required[1]
        now_ignored = [
            *ignored,
            *(column for column in columns if column != other_answer),
            config.columns.get(field, field),
        ]
        mapped = format_override(f"{key}.columns", {**config.columns, field: other_answer})
        return f"; {mapped} {format_override(f'{key}.ignore', now_ignored)} trains {other_answer} instead"
    if "reasoning" in kinds:
        return "; to train it, write rows as messages, with it as reasoning_content of the answers"
    return ""


def check_ignored(unread: UnreadColumns, source: str, wanted: Iterable[str], columns: Iterable[str]) -> None:
    """Check that the rows have every column that is to be ignored.

    Args:
        unread: The account of all rows.
        source: Name of the source in the mix.
        wanted: The source's ``ignore``.
        columns: Columns of the rows, for advice.
    """
    for name in wanted:
        if name in unread.ignored:
            continue
        available = list(dict.fromkeys([*columns, *unread.not_read]))
        near = closest_name(name, available)
        others = [column for column in wanted if column != name]
        key = f"data.mix.{source}.ignore"
        override = format_override(key, [*others, near] if near else others)
        raise SftError(
            where=key,
            problem=f"no row has a column {name!r}; the columns are {format_list(available)}",
            fix=f"did you mean {override}?" if near else f"write {override}",
        )
