"""Convert rows to conversations and summarize them."""

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
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
