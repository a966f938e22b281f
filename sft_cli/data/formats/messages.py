"""Formats of message lists: messages and sharegpt. Each message may use role/content, from/value or Gemini's parts."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sft_cli.data.formats import harmony, null_padding, responses
from sft_cli.data.formats.content_parts import ParsedContent, parse_content
from sft_cli.data.formats.fields import Fields, FormatOptions, check_unicode, parse_list, wrong_type
from sft_cli.data.formats.message_keys import MessageKeys, other_text_keys, read_message_keys
from sft_cli.data.formats.roles import TOOL_CALL, parse_role
from sft_cli.data.formats.row_context import RowContext, has_value
from sft_cli.data.formats.system_column import system_text
from sft_cli.data.formats.tool_calls import (
    PADDED,
    legacy_function_call,
    parse_call_text,
    parse_tool_calls,
    parse_tool_schemas,
)
from sft_cli.data.row_errors import RowError, format_list, short_repr
from sft_cli.types import Conversation, Message

SIMPLE = ({"role", "content"}, {"from", "value"})
"""Keys of messages that hold nothing else."""


class ParsedMessage(NamedTuple):
    """A message, whether it is the JSON of a tool call, and the harmony channel its content goes to."""

    message: Message
    is_call: bool = False
    channel: str | None = None


def from_messages(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """``{messages, tools?, functions?, system?}``."""
    return (conversation_from_column(fields, "messages", RowContext.from_fields(fields, options)),)


def from_sharegpt(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """``{conversations, tools?, system?}``."""
    return (conversation_from_column(fields, "conversations", RowContext.from_fields(fields, options)),)


def conversation_from_column(fields: Fields, name: str, context: RowContext) -> Conversation:
    """The messages of column ``name``, with the system message of a column of its own in front, and the tools."""
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
    """The conversation of messages, with what the row holds beside them: a system message, tools.

    Args:
        fields: The row's columns.
        found: The messages.
        context: The row, with what was noted about it.
        first: What the first message is called if it is a system message as well.
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
        found = [_without_null_arguments(message, tools or (), context) for message in found]
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
    """The messages of a list; neighbouring turns that each hold one tool call become one message.

    Args:
        value: The list, or its JSON text.
        field: The column it stands in.
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
    """``no messages`` or ``2 messages (system, user)`` and none by the assistant."""
    if not turns:
        return "no messages"
    plural = "messages" if len(turns) > 1 else "message"
    return f"{len(turns)} {plural} ({format_list(turn.role for turn in turns)}), none of the assistant"


def _parse_message(entry: Any, field: str, names: str, context: RowContext) -> list[ParsedMessage]:
    """One message, checked, with every key of it read or noted; results of tools in it are messages of their own."""
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
    """The message of an entry's content and keys, its calls and its reasoning in one spelling."""
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
                problem=f"field '{field}.{key}' is given beside a second spelling of tool calls",
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
            fix="correct its role, or leave such rows out with data.on_bad_row=drop",
        )
    if calls:
        extra["tool_calls"] = calls
    weight = _weight(keys.weight, parts.weight, field, context)
    if weight is None:
        weight = context.default_weight if role == "assistant" else 1.0
    return Message(role, parts.text, weight, extra)


def _weight(own: float | None, parts: float | None, field: str, context: RowContext) -> float | None:
    """The one weight of a message and of its parts; None when nothing is said about it."""
    if own is not None and parts is not None and bool(own) != bool(parts):
        raise RowError(
            where=context.where,
            reason="loss flags that disagree",
            problem=f"field {field!r} and the parts of its content disagree about whether it is trained",
            fix="keep one of them; weight: 1 trains the message, weight: 0 does not",
        )
    return own if own is not None else parts


def _check_content(message: Message, value: Any, field: str, entry: Mapping[str, Any], context: RowContext) -> Message:
    """The message, if it says anything: an answer of "" is silence on purpose, a missing one is a mistake."""
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
            fix=f"{hint} or remove the row; data.on_bad_row=drop leaves such rows out",
        )
    return message


def _check_extra(message: Message, field: str, context: RowContext) -> None:
    """Return if what goes to the template can be written as UTF-8."""
    if message.extra:
        check_unicode(json.dumps(message.extra, ensure_ascii=False, default=str), field, context.where)


def _merge_calls(first: ParsedMessage, second: ParsedMessage) -> ParsedMessage:
    """Two turns of tool calls with nothing between them as one message: calls made at once."""
    extra = {**first.message.extra, **second.message.extra}
    extra["tool_calls"] = [*first.message.extra["tool_calls"], *second.message.extra["tool_calls"]]
    return ParsedMessage(Message("assistant", "", first.message.weight, extra), True)


def _without_null_arguments(message: Message, tools: tuple[Mapping[str, Any], ...], context: RowContext) -> Message:
    """The message without the null arguments that Arrow fills in."""
    calls = message.extra.get("tool_calls")
    if not calls or not any(null_padding.has_null(_arguments_of(call)) for call in calls):
        return message
    made = []
    for call in calls:
        arguments = _arguments_of(call)
        if isinstance(arguments, Mapping) and null_padding.has_null(arguments):
            properties = null_padding.tool_properties(tools, call["function"]["name"])
            if properties is None and any(value is None for value in arguments.values()):
                raise _ambiguous_null(call, context)
            kept = null_padding.drop_padding(arguments, properties or {})
            if kept != arguments:
                context.remarks.add(PADDED)
            call = {**call, "function": {**call["function"], "arguments": kept}}
        made.append(call)
    return replace(message, extra={**message.extra, "tool_calls": made})


def _arguments_of(call: Mapping[str, Any]) -> Any:
    return call["function"].get("arguments") if isinstance(call.get("function"), Mapping) else None


def _ambiguous_null(call: Mapping[str, Any], context: RowContext) -> RowError:
    """Without its schema nobody can say whether a null argument is meant."""
    function = call["function"]
    empty = [key for key, value in function["arguments"].items() if value is None]
    return RowError(
        where=context.where,
        reason="null arguments without a schema",
        problem=f"the call of {function['name']} has null for {format_list(empty)}, and the row has no schema of the "
        "tool: it may be meant, or padding of a Parquet file",
        fix="add the tool to the row's tools, or write the arguments as JSON text; data.on_bad_row=drop leaves such "
        "rows out",
    )
