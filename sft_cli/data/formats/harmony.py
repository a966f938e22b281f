"""Messages with harmony channels (gpt-oss): analysis is reasoning, final the answer, commentary a tool call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.types import Message

ANALYSIS, COMMENTARY, FINAL = "analysis", "commentary", "final"
_FIX = "write reasoning as reasoning_content and calls as tool_calls, or set data.on_bad_row=drop"


def apply_channel(
    message: Message, channels: Mapping[str, str], field: str, context: RowContext
) -> tuple[Message, str | None]:
    """The message its channel and recipient make of it, and the channel.

    A message to ``functions.NAME`` becomes a call of that tool.

    Raises:
        RowError: A channel or recipient that has no counterpart in a chat template.
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
            raise _unsupported(message, channels, "its content is no JSON object of arguments", field, context)
        name = recipient.removeprefix("functions.")
        call = {"type": "function", "function": {"name": name, "arguments": message.content.strip()}}
        return replace(message, content="", extra={**message.extra, "tool_calls": [call]}), FINAL
    if not known or recipient not in (None, "all", "user"):
        raise _unsupported(message, channels, "no template has such a channel or recipient", field, context)
    if channel == COMMENTARY and "tool_calls" not in message.extra:
        raise _unsupported(
            message, channels, "a commentary that calls no tool has no place in a template", field, context
        )
    if channel == ANALYSIS and message.extra:
        raise _unsupported(message, channels, "reasoning holds nothing else", field, context)
    return message, ANALYSIS if channel == ANALYSIS else FINAL


def merge_reasoning(turns: Sequence[tuple[Message, str | None]], field: str, context: RowContext) -> list[Message]:
    """The messages with the content of each analysis as the reasoning of the answer, or call, behind it.

    Raises:
        RowError: An analysis is followed by no answer, or by one that is trained with another weight.
    """
    found: list[Message] = []
    thoughts: list[str] = []
    weight = 1.0
    for message, channel in turns:
        if channel == ANALYSIS:
            if thoughts and message.weight != weight:
                raise _orphan_analysis(thoughts[0], "is trained with another weight than what follows", field, context)
            thoughts.append(message.content)
            weight = message.weight
            continue
        if thoughts:
            if message.role != "assistant":
                raise _orphan_analysis(thoughts[0], "is followed by no answer", field, context)
            if message.weight != weight:
                raise _orphan_analysis(thoughts[0], "is trained with another weight than what follows", field, context)
            if "reasoning_content" in message.extra:
                raise _orphan_analysis(
                    thoughts[0], "is followed by an answer with a reasoning of its own", field, context
                )
            message = replace(message, extra={**message.extra, "reasoning_content": "\n\n".join(thoughts)})
            thoughts = []
        found.append(message)
    if thoughts:
        raise _orphan_analysis(thoughts[0], "is followed by no answer", field, context)
    return found


def _object(text: str) -> dict[str, object] | None:
    """The JSON object a text is; None if it is none."""
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
