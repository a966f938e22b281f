"""Convert harmony channels (gpt-oss): analysis to reasoning, final to the answer, commentary to a tool call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.types import Message

ANALYSIS, COMMENTARY, FINAL = "analysis", "commentary", "final"
_FIX = "write reasoning as reasoning_content and calls as tool_calls"


def apply_channel(
    message: Message, channels: Mapping[str, str], field: str, context: RowContext
) -> tuple[Message, str | None]:
    """Return the message that a channel and recipient make of a message, and its channel.

    A message to ``functions.NAME`` becomes a call of that tool.

    Raises:
        RowError: The channel or recipient has no counterpart in chat templates.
    """
    channel, recipient = channels.get("channel"), channels.get("recipient")
    known = channel in (None, ANALYSIS, COMMENTARY, FINAL)
    if message.role != "assistant":
        if known and channel != ANALYSIS and recipient in (None, "all", "assistant"):
            return message, None
        raise _unsupported(message, channels, f"a {message.role} message has no channel", field, context)
    if isinstance(recipient, str) and recipient.startswith("functions."):
        arguments = _object(message.content)
        if arguments is None or "tool_calls" in message.extra:
            raise _unsupported(message, channels, "its content is not a JSON object of arguments", field, context)
        name = recipient.removeprefix("functions.")
        call = {"type": "function", "function": {"name": name, "arguments": message.content.strip()}}
        return replace(message, content="", extra={**message.extra, "tool_calls": [call]}), FINAL
    if not known or recipient not in (None, "all", "user"):
        raise _unsupported(message, channels, "chat templates have no such channel or recipient", field, context)
    if channel == COMMENTARY and "tool_calls" not in message.extra:
        raise _unsupported(message, channels, "chat templates have no commentary without a tool call", field, context)
    if channel == ANALYSIS and message.extra:
        raise _unsupported(message, channels, "an analysis message must not have other fields", field, context)
    return message, ANALYSIS if channel == ANALYSIS else FINAL


def merge_reasoning(turns: Sequence[tuple[Message, str | None]], field: str, context: RowContext) -> list[Message]:
    """Return the messages with each analysis as the reasoning of the answer or call after it.

    Raises:
        RowError: No answer follows an analysis, or one that is trained with another weight.
    """
    merged: list[Message] = []
    thoughts: list[str] = []
    weight = 1.0
    for message, channel in turns:
        if channel == ANALYSIS:
            if thoughts and message.weight != weight:
                raise _orphan_analysis(
                    thoughts[0], "has another training weight than the message after it", field, context
                )
            thoughts.append(message.content)
            weight = message.weight
            continue
        if thoughts:
            if message.role != "assistant":
                raise _orphan_analysis(thoughts[0], "is followed by no answer", field, context)
            if message.weight != weight:
                raise _orphan_analysis(
                    thoughts[0], "has another training weight than the message after it", field, context
                )
            if "reasoning_content" in message.extra:
                raise _orphan_analysis(
                    thoughts[0], "is followed by an answer that has reasoning already", field, context
                )
            message = replace(message, extra={**message.extra, "reasoning_content": "\n\n".join(thoughts)})
            thoughts = []
        merged.append(message)
    if thoughts:
        raise _orphan_analysis(thoughts[0], "is followed by no answer", field, context)
    return merged


def _object(text: str) -> dict[str, object] | None:
    """Return the JSON object of a text; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _unsupported(message: Message, channels: Mapping[str, str], why: str, field: str, context: RowContext) -> RowError:
    (key, value), *_ = channels.items()
    return RowError(
        where=context.where,
        reason=f"{key} of a message",
        problem=f"field '{field}.{key}' ({message.role}) is {short_repr(value)}; {why}",
        fix=_FIX,
    )


def _orphan_analysis(thought: str, why: str, field: str, context: RowContext) -> RowError:
    return RowError(
        where=context.where,
        reason="analysis without its answer",
        problem=f"field {field!r}: the analysis {short_repr(thought)} {why}",
        fix=_FIX,
    )
