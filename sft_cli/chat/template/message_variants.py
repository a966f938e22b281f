"""Variants of a conversation that clients may send: place of reasoning, form of arguments, ids of calls.

Variants are tried in the order that servers use: reasoning where the template reads it, argument objects before JSON
text (servers parse what clients send as text), calls as they are before calls with a type and an id of nine characters
(as Mistral's servers make them). A later variant is used only if the template wrote nothing usable for the earlier one:
it raised an error, or wrote objects as Python or HTML.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from sft_cli.chat.masks.content_check import tool_function
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import RenderError
from sft_cli.types import Conversation, Message
from sft_cli.utils.text import json_or_none

ID_LENGTH = 9
"""Number of letters and digits of a call id that Mistral's templates require."""
IN_PARTS, IN_CONTENT = "parts", "content"
"""Places of reasoning other than a key: a content part of type ``thinking``; between tags in the content."""
Value = TypeVar("Value")
Change = Callable[[tuple[Message, ...]], tuple[Message, ...]]


class ConversationVariant(NamedTuple):
    """A conversation as a client may send it, and remarks (keys of data/remarks.py) about how it differs."""

    conversation: Conversation
    remarks: tuple[str, ...] = ()


def try_variants(variants: Iterator[ConversationVariant], read: Callable[[ConversationVariant], Value]) -> Value:
    """Return the result of ``read`` for the first variant that it accepts.

    Raises:
        RenderError: It rejects a variant for which the template wrote something, or all variants. The error is that of
            the first variant for which the template wrote something, otherwise that of the first variant.
    """
    errors: list[RenderError] = []
    for variant in variants:
        try:
            return read(variant)
        except RenderError as error:
            errors.append(error)
            if not error.nothing_written:
                break
    raise next((error for error in errors if not error.nothing_written), errors[0])


def conversation_variants(
    conversation: Conversation, find_formats: Callable[[], Sequence[str]]
) -> Iterator[ConversationVariant]:
    """Yield the variants of a conversation in the order that servers use, without duplicates.

    Args:
        conversation: The conversation as its row gives it.
        find_formats: Returns the places from which the template reads reasoning, the best first: a key, ``IN_PARTS`` or
            ``IN_CONTENT``; empty for a template without a reasoning format: then reasoning is part of the content,
            between tags.
    """
    if not any(message.extra or "</think>" in message.content for message in conversation.messages):
        yield ConversationVariant(conversation)
        return
    messages = tuple(drop_blank_reasoning(message) for message in conversation.messages)
    seen: list[tuple[Message, ...]] = []
    has_reasoning = any(_reasoning(message) is not None for message in messages)
    formats = tuple(find_formats()) if has_reasoning else ()
    for format in (formats or (IN_CONTENT,)) if has_reasoning else ("",):
        moved = _MOVES[format](messages) if format in _MOVES else _to_key(format)(messages)
        in_text_remark = ("reasoning_in_text",) if has_reasoning and not formats else ()
        for add_ids in (_unchanged, with_tool_call_ids):
            for convert, remarks in ((_as_objects, ()), (_as_text, ("arguments_as_text",))):
                changed = convert(add_ids(moved))
                if changed not in seen:
                    seen.append(changed)
                    yield ConversationVariant(replace(conversation, messages=changed), (*in_text_remark, *remarks))


def drop_blank_reasoning(message: Message) -> Message:
    """Return a message without empty reasoning keys: null, "" and blank are the same as no key."""
    blank = [key for key in reasoning_blocks.REASONING_KEYS if key in message.extra and _is_blank(message.extra[key])]
    if not blank:
        return message
    return replace(message, extra={key: value for key, value in message.extra.items() if key not in blank})


def with_tool_call_ids(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Give each call a type and an id of nine letters and digits, and each result the id and name of its call.

    An id depends only on the call and its place in the conversation.
    """
    result, open_calls, renamed, number = [], [], {}, 0
    for message in messages:
        calls = message.extra.get("tool_calls") or ()
        if calls:
            open_calls = []
            for call in calls:
                new_call = _with_id(call, number)
                renamed[call.get("id")] = new_call
                open_calls.append(new_call)
                number += 1
            message = replace(message, extra={**message.extra, "tool_calls": list(open_calls)})
        elif message.role == "tool" and open_calls:
            given_id = message.extra.get("tool_call_id")
            answered_call = renamed[given_id] if given_id is not None and given_id in renamed else open_calls[0]
            open_calls = [call for call in open_calls if call is not answered_call]
            name = message.extra.get("name", answered_call["function"].get("name"))
            message = replace(message, extra={**message.extra, "tool_call_id": answered_call["id"], "name": name})
        result.append(message)
    return tuple(result)


def _with_id(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a call as OpenAI clients send it, with an id that every template accepts."""
    id = call.get("id")
    if not (isinstance(id, str) and len(id) == ID_LENGTH and id.isalnum()):
        function = tool_function(call)
        arguments = function.get("arguments")
        value = json_or_none(arguments) if isinstance(arguments, str) else arguments
        content = json.dumps([number, function.get("name"), value], sort_keys=True)
        id = hashlib.sha256(content.encode()).hexdigest()[:ID_LENGTH]
    further = {key: value for key, value in call.items() if key not in ("name", "arguments", "function")}
    return {**further, "id": id, "type": call.get("type", "function"), "function": tool_function(call)}


def _is_blank(value: Any) -> bool:
    """Return whether reasoning is empty."""
    return value is None or (isinstance(value, str) and not value.strip())


def _unchanged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages


def _for_each_reasoning(move: Callable[[Message, str, str], Message]) -> Change:
    """Return a change of every message with reasoning; ``move`` gets its reasoning and its content without it."""

    def moved(message: Message) -> Message:
        parts = _reasoning(message)
        return message if parts is None else move(message, *parts)

    return lambda messages: tuple(moved(message) for message in messages)


def _to_key(key: str) -> Change:
    """Return a change that moves reasoning to ``key``."""

    def move(message: Message, reasoning: str, content: str) -> Message:
        return replace(message, content=content, extra={**_without_reasoning(message), key: reasoning})

    return _for_each_reasoning(move)


def _into_content(message: Message, reasoning: str, content: str) -> Message:
    """Return the message with its reasoning in the content, between tags and newlines as reasoning models write."""
    if reasoning_blocks.find_block(message.content) is not None:
        return replace(message, extra=_without_reasoning(message))
    return replace(message, content=f"<think>\n{reasoning}\n</think>\n\n{content}", extra=_without_reasoning(message))


def _into_parts(message: Message, reasoning: str, content: str) -> Message:
    """Return the message with its reasoning under a key that ``client_message`` turns into a content part."""
    return replace(message, content=content, extra={**_without_reasoning(message), IN_PARTS: reasoning})


_MOVES: Mapping[str, Change] = {
    "": _unchanged,
    IN_CONTENT: _for_each_reasoning(_into_content),
    IN_PARTS: _for_each_reasoning(_into_parts),
}


def client_message(message: Message) -> dict[str, Any]:
    """Return a message as a client sends it: role, content (text or parts) and its further keys."""
    if not message.extra:
        return {"role": message.role, "content": message.content}
    extra = dict(message.extra)
    reasoning = extra.pop(IN_PARTS, None)
    if reasoning is None:
        return {"role": message.role, "content": message.content, **extra}
    parts = [{"type": "thinking", "thinking": reasoning}]
    parts += [{"type": "text", "text": message.content}] if message.content else []
    return {"role": message.role, "content": parts, **extra}


def _reasoning(message: Message) -> tuple[str, str] | None:
    """Return the reasoning of an assistant message and its content without it; None if it has none."""
    if message.role != "assistant":
        return None
    block = reasoning_blocks.find_block(message.content)
    values = {
        message.extra[key].strip() for key in reasoning_blocks.REASONING_KEYS if isinstance(message.extra.get(key), str)
    }
    if block is not None:
        reasoning = message.content[block.start : block.end].strip()
        if not reasoning and not values:
            return None
        return (reasoning, message.content[block.answer :]) if values <= {reasoning} else None
    return (values.pop(), message.content) if len(values) == 1 else None


def _without_reasoning(message: Message) -> dict[str, Any]:
    """Return the further keys of a message without those of its reasoning."""
    return {key: value for key, value in message.extra.items() if key not in reasoning_blocks.REASONING_KEYS}


def _as_objects(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Parse the arguments of calls that are JSON text of an object."""
    return _with_calls(messages, lambda value: json_or_none(value) if isinstance(value, str) else value)


def _as_text(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Write the arguments of calls as JSON text."""
    return _with_calls(messages, lambda value: json.dumps(value, ensure_ascii=False))


def _with_calls(messages: tuple[Message, ...], change: Callable[[Any], Any]) -> tuple[Message, ...]:
    """Change the arguments of calls where they are an object, or JSON text of one."""

    def changed(call: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the call with changed arguments, or the call itself if they would not be an object."""
        function = tool_function(call)
        arguments = function.get("arguments")
        new = change(arguments)
        if not isinstance(json_or_none(new) if isinstance(new, str) else new, dict) or isinstance(arguments, type(new)):
            return call
        function = {**function, "arguments": new}
        return {**call, "function": function} if "function" in call else {**call, **function}

    return tuple(
        replace(message, extra={**message.extra, "tool_calls": [changed(call) for call in message.extra["tool_calls"]]})
        if message.extra.get("tool_calls")
        else message
        for message in messages
    )
