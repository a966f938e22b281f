"""Convert rows to conversations and summarize them."""

import json
import pickle

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.sources.source_rows import BadRow, read_slice, read_source
from sft_cli.data.sources.source_rows import source_slices as slices_of
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Row

ASK = {"role": "user", "content": "Q"}
SAY = {"role": "assistant", "content": "A"}


def convert(values, format="auto", **config) -> Conversation:
    """Return the single conversation of a row of the source ``mine``."""
    source = SourceConfig(format=format, **config)
    (result,) = make_converter(source, "mine", "\n\n", values).convert(Row(values, "rows.jsonl:7", "mine"))
    return result


def messages(*entries, **columns) -> Conversation:
    """Return the conversation of a list of messages."""
    return convert({"messages": list(entries), **columns}, "messages")


def summarize(found: Conversation):
    """Return each message as a tuple: role, content, its weight unless it is 1, and its further keys."""
    return [
        (m.role, m.content, *([m.weight] if m.weight != 1 else []), *([dict(m.extra)] if m.extra else []))
        for m in found.messages
    ]


def located_values(rows):
    """Return locations with values, or with the message of an error."""
    return [(row.where, str(row.error) if isinstance(row, BadRow) else dict(row.values)) for row in rows]


def through_slices(path):
    """Return the rows of every slice, pickled as if sent to another process."""
    pieces = [pickle.loads(pickle.dumps(piece)) for piece in slices_of(SourceConfig(path=path), "mine", "train")]
    return [located_values(read_slice(piece, "mine")) for piece in pieces]


def write(tmp_path, *names):
    """Write files of one row each, whose text is the name of the file."""
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n")


def places(side="train", **config):
    return {row.where: row.values["text"] for row in read_source(SourceConfig(**config), "mine", side)}


def message(side="train", **config):
    with pytest.raises(SftError) as caught:
        list(read_source(SourceConfig(**config), "mine", side))
    return str(caught.value)
