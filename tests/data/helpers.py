"""Rows to conversations, by hand."""

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.types import Conversation, Row

ASK = {"role": "user", "content": "Q"}
SAY = {"role": "assistant", "content": "A"}


def convert(values, format="auto", **config) -> Conversation:
    """The one conversation of a row of the source ``mine``."""
    source = SourceConfig(format=format, **config)
    (result,) = make_converter(source, "mine", "\n\n", values).convert(Row(values, "rows.jsonl:7", "mine"))
    return result


def messages(*entries, **columns) -> Conversation:
    """The conversation of a list of messages."""
    return convert({"messages": list(entries), **columns}, "messages")


def summarize(found: Conversation):
    """Each message as a tuple: role, content, then its weight where it is not 1, then its further keys."""
    return [
        (m.role, m.content, *([m.weight] if m.weight != 1 else []), *([dict(m.extra)] if m.extra else []))
        for m in found.messages
    ]
