"""Convert items of OpenAI's Responses API (messages, reasoning, function calls and outputs) to chat messages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sft_cli.data.formats.harmony import ANALYSIS
from sft_cli.data.formats.message_keys import check_part_keys
from sft_cli.data.formats.row_context import RowContext, has_value
from sft_cli.data.row_errors import RowError
from sft_cli.types import Message

ITEM_TYPES = ("message", "reasoning", "function_call", "function_call_output")
"""Types of items that have a counterpart in chat templates."""


def is_item(entry: Any) -> bool:
    """Return whether an entry of a message list is an item without a role."""
    return (
        isinstance(entry, Mapping)
        and isinstance(entry.get("type"), str)
        and "role" not in entry
        and "from" not in entry
    )


def item_as_message(item: Mapping[str, Any], field: str, names: str, context: RowContext) -> dict[str, Any] | None:
    """Return an item in the shape of a chat message; None for reasoning whose text is not in the file.

    Args:
        item: The item.
        field: Path of the item, for errors.
        names: Path of the item, for notes.
        context: The row.
    """
    kind = item["type"]
    if kind == "function_call":
        check_part_keys(item, ("type", "name", "arguments", "call_id"), field, names, context)
        call = {key: item[key] for key in ("name", "arguments", "call_id") if key in item}
        return {"role": "assistant", "tool_calls": [call]}
    if kind == "function_call_output":
        check_part_keys(item, ("type", "call_id", "output"), field, names, context)
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    if kind == "reasoning":
        check_part_keys(item, ("type", "summary", "content"), field, names, context)
        texts = item.get("content") if has_value(item.get("content")) else item.get("summary")
        if not has_value(texts):
            return None
        parts = [_as_text(part) for part in texts] if isinstance(texts, list) else texts
        return {"role": "assistant", "channel": ANALYSIS, "content": parts}
    raise RowError(
        where=context.where,
        reason=f"item of type {kind}",
        problem=f"field '{field}.type' is {kind!r}; no chat template has a counterpart for such an item",
        fix=f"keep items of type {', '.join(ITEM_TYPES)}",
    )


def merge_tool_calls(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the tool calls after an answer merged into it, as the API made them."""
    merged: list[Message] = []
    for message in messages:
        before = merged[-1] if merged else None
        follows = before is not None and before.role == message.role == "assistant" and before.weight == message.weight
        calls = message.extra.get("tool_calls")
        if (
            follows
            and before is not None
            and calls
            and not message.content
            and "reasoning_content" not in message.extra
        ):
            all_calls = [*before.extra.get("tool_calls", ()), *calls]
            merged[-1] = replace(before, extra={**before.extra, "tool_calls": all_calls})
        else:
            merged.append(message)
    return merged


def _as_text(part: Any) -> Any:
    """Return a part of a reasoning item as a text part."""
    known = isinstance(part, Mapping) and part.get("type") in ("summary_text", "reasoning_text", "text")
    return {**part, "type": "text"} if known else part
