"""Inspect the first rows of the sources for advice, without storing, downloading or refusing rows."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sft_cli.chat.template.conversation_features import ConversationFeatures
from sft_cli.config.paths import resolve
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import SourceConfig, Thinking
from sft_cli.data.formats import row_converter
from sft_cli.data.formats.unread_columns import UnreadColumns
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources import source_rows
from sft_cli.data.sources.slices import Slice
from sft_cli.errors import SftError
from sft_cli.prepare.rows_stage import first_columns
from sft_cli.types import Conversation, Row

MAX_ROWS = 200
"""Rows of each source that are inspected."""


def first_row_features(config: Config) -> frozenset[ConversationFeatures]:
    """Return the distinct features of the first rows; empty if no row can be read."""
    keeps_reasoning = config.data.thinking is not Thinking.strip
    separator = config.template.input_separator
    return frozenset(
        ConversationFeatures.from_conversation(conversation, reasoning=keeps_reasoning)
        for name, source in config.data.mix.items()
        for conversation in _conversations(source, name, separator)
        if conversation.messages
    )


def _conversations(source: SourceConfig, name: str, separator: str) -> Iterator[Conversation]:
    """Yield the conversations of the first rows of a local file."""
    if source.stream or source.path is None or not Path(resolve(source.path)).exists():
        return
    try:
        rows = [
            row for piece in source_rows.source_slices(source, name, "train")[:1] for row in _first_rows(piece, name)
        ]
        converter = row_converter.make_converter(source, name, separator, first_columns(rows, source.ignore))
        for row in () if converter.needs_all_rows else rows:
            converter.note_columns(row, UnreadColumns())
            try:
                yield from converter.convert(row)
            except RowError:
                continue
    except SftError:
        return  # preparation reports the error when it reads the rows


def _first_rows(piece: Slice, name: str) -> list[Row]:
    """Return the first readable rows of a slice."""
    return [row for row in islice(source_rows.read_slice(piece, name), MAX_ROWS) if isinstance(row, Row)]
