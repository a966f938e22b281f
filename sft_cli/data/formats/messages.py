"""Formats of message lists: messages and sharegpt. A message has role/content, from/value, or Gemini's parts."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_cli.data.formats import harmony, null_padding, responses
from sft_cli.data.formats.content_parts import ParsedContent, parse_content
from sft_cli.data.formats.fields import Fields, FormatOptions, check_unicode, parse_list, wrong_type
from sft_cli.data.formats.message_keys import MessageKeys, other_text_keys, read_message_keys
from sft_cli.data.formats.roles import TOOL_CALL, parse_role
from sft_cli.data.formats.row_context import RowContext, has_value
from sft_cli.data.formats.system_column import system_text
from sft_cli.data.formats.tool_calls import (
    legacy_function_call,
    parse_call_text,
    parse_tool_calls,
    parse_tool_schemas,
)
from sft_cli.data.row_errors import RowError, format_list, short_repr
from sft_cli.types import Conversation, Message

SIMPLE = ({"role", "content"}, {"from", "value"})
"""Keys of the simplest messages."""


class ParsedMessage(NamedTuple):
    """A message, whether it is the JSON of a tool call, and the harmony channel of its content."""

    message: Message
    is_call: bool = False
    channel: str | None = None


def from_messages(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Read ``{messages, tools?, functions?, system?}``."""
    return (conversation_from_column(fields, "messages", RowContext.from_fields(fields, options)),)


def from_sharegpt(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Read ``{conversations, tools?, system?}``."""
    return (conversation_from_column(fields, "conversations", RowContext.from_fields(fields, options)),)


def conversation_from_column(fields: Fields, name: str, context: RowContext) -> Conversation:
    """Return the messages of column ``name``, after the system message of another column, and the tools."""
    found = parse_messages(fields.values[name], fields.columns[name], context)
    if not any(message.role == "assistant" for message in found):
        raise RowError(
            where=context.where,
            reason="no assistant turn",
            problem=f"field {fields.columns[name]!r} has {_count(found)}; there is nothing to learn to say",
            fix="add the assistant's answer or remove the row",
        )
    return build_conversation(fields, found, context, f"'{fields.columns[name]}[0]'")


def build_conversation(
    fields: Fields, found: list[Message], context: RowContext, first: str = "the first message"
) -> Conversation:
    """Return the conversation of messages and of the row's other columns: a system message, tools.

    Args:
        fields: The columns of the row.
        found: The messages.
        context: The row, with its remarks.
        first: The name of the first message in an error, if that is a system message too.
    """
    column, system = system_text(fields, context)
    if system:
        if found[0].role == "system":
            raise RowError(
                where=context.where,
                reason="two system messages",
                problem=f"fields {column!r} and {first} both hold a system message",
                fix="keep one of them",
            )
        found = [Message("system", system), *found]
    tools = parse_tool_schemas(fields, context)
    if any(message.extra for message in found):
        found = [null_padding.drop_null_arguments(message, tools or (), context) for message in found]
    return Conversation(
        tuple(found),
        where=context.where,
        source=context.source,
        tools=tools,
        tags=context.tags(),
        remarks=tuple(sorted(context.remarks)),
        not_read=tuple(sorted(context.not_read)),
    )


def parse_messages(value: Any, field: str, context: RowContext) -> list[Message]:
    """Return the messages of a list; consecutive turns with one tool call each become one message.

    Args:
        value: The list, or its JSON text.
        field: The column of the list.
        context: The row.
    """
    value = parse_list(value)
    if not isinstance(value, list):
        raise wrong_type(value, field, "a list of messages", context.where)
    turns: list[ParsedMessage] = []
    after_call = items = False
    for index, entry in enumerate(value):
        if responses.is_item(entry):
            entry, items = responses.item_as_message(entry, f"{field}[{index}]", f"{field}[]", context), True
            if entry is None:
                continue
        read = _parse_message(entry, f"{field}[{index}]", f"{field}[]", context)
        if read[0].is_call and after_call and read[0].message.weight == turns[-1].message.weight:
            read = [_merge_calls(turns.pop(), read[0])]
        turns += read
        after_call = read[-1].is_call
    found = [turn.message for turn in turns]
    if any(turn.channel for turn in turns):
        found = harmony.merge_reasoning([(turn.message, turn.channel) for turn in turns], field, context)
    return responses.merge_tool_calls(found) if items else found


def _count(turns: list[Message]) -> str:
    """``no messages`` or ``2 messages (system, user), none of the assistant``."""
    if not turns:
        return "no messages"
    plural = "messages" if len(turns) > 1 else "message"
    return f"{len(turns)} {plural} ({format_list(turn.role for turn in turns)}), none of the assistant"


def _parse_message(entry: Any, field: str, names: str, context: RowContext) -> list[ParsedMessage]:
    """Check and return one message; all its keys are read or recorded, and tool results in it become messages."""
    if not isinstance(entry, dict):
        raise wrong_type(entry, field, "an object with role and content", context.where)
    by, key = _content_keys(entry)
    role = parse_role(entry, by, field, context)
    value = entry.get(key)
    if role != TOOL_CALL and isinstance(value, str) and entry.keys() in SIMPLE:
        parts = parse_content(value, role, f"{field}.{key}", f"{names}.{key}", context)
        weight = context.default_weight if role == "assistant" else 1.0
        return [ParsedMessage(_check_content(Message(role, parts.text, weight), value, f"{field}.{key}", {}, context))]
    is_call, role = role == TOOL_CALL, "assistant" if role == TOOL_CALL else role
    read = [by, key, "tool_calls", "function_call", *(["type"] if entry.get("type") == "message" else [])]
    keys = read_message_keys(entry, read, role, field, names, context)
    if is_call:
        parts = ParsedContent(calls=parse_call_text(value, str(entry[by]), f"{field}.{key}", names, context))
        value = None
    else:
        parts = parse_content(value, role, f"{field}.{key}", f"{names}.{key}", context)
    message, channel = _build_message(entry, role, parts, keys, (field, names), context), None
    if keys.channels:
        message, channel = harmony.apply_channel(message, keys.channels, field, context)
        is_call = is_call or bool(message.extra.get("tool_calls"))
    _check_extra(message, field, context)
    results = [
        ParsedMessage(
            Message("tool", result.text, message.weight, {} if result.call is None else {"tool_call_id": result.call})
        )
        for result in parts.results
    ]
    if results and not message.content.strip():
        return results
    return [*results, ParsedMessage(_check_content(message, value, f"{field}.{key}", entry, context), is_call, channel)]


def _content_keys(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The keys of a message's role and content."""
    if "from" in entry and "role" not in entry:
        return "from", "value"
    if "content" not in entry and "parts" in entry:
        return "role", "parts"
    if entry.get("content") is None and has_value(entry.get("refusal")):
        return "role", "refusal"
    return "role", "content"


def _build_message(
    entry: Mapping[str, Any],
    role: str,
    parts: ParsedContent,
    keys: MessageKeys,
    place: tuple[str, str],
    context: RowContext,
) -> Message:
    """The message of an entry, with its calls and its reasoning under one key each."""
    field, names = place
    calls = parts.calls
    for key, read in (("function_call", legacy_function_call), ("tool_calls", parse_tool_calls)):
        if not has_value(entry.get(key)):
            continue
        found = read(entry[key], f"{field}.{key}", f"{names}.{key}", context)
        if calls and found:
            raise RowError(
                where=context.where,
                reason="two spellings of tool calls",
                problem=f"field '{field}.{key}' is a second spelling of the message's tool calls",
                fix="keep one of them",
            )
        calls = calls or found
    extra = dict(keys.extra)
    if parts.reasoning.strip():
        if extra.get("reasoning_content", parts.reasoning).strip() != parts.reasoning.strip():
            raise RowError(
                where=context.where,
                reason="two spellings of reasoning",
                problem=f"field '{field}' has reasoning in parts of its content, and another under a key of its own",
                fix="keep one of them",
            )
        extra["reasoning_content"] = parts.reasoning
    if calls and role != "assistant":
        raise RowError(
            where=context.where,
            reason=f"tool calls of a {role} message",
            problem=f"field {field!r} ({role}) calls tools; only messages of the assistant do",
            fix="correct its role",
        )
    if calls:
        extra["tool_calls"] = calls
    weight = _weight(keys.weight, parts.weight, field, context)
    if weight is None:
        weight = context.default_weight if role == "assistant" else 1.0
    return Message(role, parts.text, weight, extra)


def _weight(own: float | None, parts: float | None, field: str, context: RowContext) -> float | None:
    """The weight of a message, given by itself or by its parts; None if neither gives one."""
    if own is not None and parts is not None and bool(own) != bool(parts):
        raise RowError(
            where=context.where,
            reason="loss flags that disagree",
            problem=f"field {field!r} and the parts of its content disagree about whether it is trained",
            fix="keep one of them; weight: 1 trains the message, weight: 0 does not",
        )
    return own if own is not None else parts


def _check_content(message: Message, value: Any, field: str, entry: Mapping[str, Any], context: RowContext) -> Message:
    """Return the message if it has content; an answer of "" is intended, a missing one is an error."""
    role = message.role
    if message.content.strip() or "tool_calls" in message.extra:
        return message
    if role == "user" or value is None or (not isinstance(value, str) and role == "assistant"):
        others = other_text_keys(entry)
        hint = f"write the text of {format_list(others)} under 'content'" if others and value is None else "fill it in"
        names = {"assistant": "empty answer", "user": "empty question"}
        raise RowError(
            where=context.where,
            reason=names.get(role, f"{role} message without content"),
            problem=f"field '{field}' ({role}) is {short_repr(value)}; expected non-empty text",
            fix=f"{hint} or remove the row",
        )
    return message


def _check_extra(message: Message, field: str, context: RowContext) -> None:
    """Check that the values for the template can be written as UTF-8."""
    if message.extra:
        check_unicode(json.dumps(message.extra, ensure_ascii=False, default=str), field, context.where)


def _merge_calls(first: ParsedMessage, second: ParsedMessage) -> ParsedMessage:
    """Merge two consecutive turns of tool calls into one message: the calls are made at once."""
    extra = {**first.message.extra, **second.message.extra}
    extra["tool_calls"] = [*first.message.extra["tool_calls"], *second.message.extra["tool_calls"]]
    return ParsedMessage(Message("assistant", "", first.message.weight, extra), True)
