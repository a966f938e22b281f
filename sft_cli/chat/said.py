"""What an assistant message says, tool calls among it, and the two forms templates read tool arguments in."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sft_cli.chat.template import TemplateRefusal
from sft_cli.data.types import Conversation, Message

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys under which messages carry the reasoning before an answer."""
Value = TypeVar("Value")


def unsaid(message: Message, shown: str) -> str | None:
    """The first piece of an assistant message that the text of its answer does not show; None if it shows all."""
    wanted = message.content.strip()
    pieces = [piece.strip() for piece in re.split(r"</?think>", wanted)] if "</think>" in wanted else [wanted]
    pieces += [text for call in message.extra.get("tool_calls") or () for text in call_strings(call)]
    pieces += [text.strip() for key in REASONING if isinstance(text := message.extra.get(key), str)]
    return next((piece for piece in pieces if piece not in shown), None)


def in_either_form(conversation: Conversation, read: Callable[[Conversation], Value]) -> Value:
    """``read`` of the conversation, or, if the template refuses that, with its tool arguments in the other form.

    Some templates fail on arguments that are an object, others on arguments that are JSON text; servers convert too.
    """
    try:
        return read(conversation)
    except TemplateRefusal as refusal:
        other = _other_form(conversation)
        if other is None:
            raise
        first = refusal
    try:
        return read(other)
    except TemplateRefusal:
        raise first from None


def argument_texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tool arguments that are JSON text."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    found = [_function(call).get("arguments") for call in calls]
    return [arguments for arguments in found if isinstance(arguments, str)]


def encoded_twice(arguments: str) -> bool:
    """Whether a text is JSON of a text that is JSON again."""
    value = _parsed(arguments)
    return isinstance(value, str) and isinstance(_parsed(value), dict)


def call_strings(call: Mapping[str, Any]) -> Iterator[str]:
    """What must be seen of a tool call: its name and its arguments, of an object the names."""
    function = _function(call)
    if "name" not in function:
        raise TemplateRefusal("a tool call has no name")
    yield function["name"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        yield arguments.strip()
    elif isinstance(arguments, Mapping):
        yield from arguments


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a call that holds name and arguments."""
    return call.get("function", call)


def _other_form(conversation: Conversation) -> Conversation | None:
    """The conversation with argument objects as JSON text and JSON text as objects; None if it has neither."""
    messages = tuple(_other_message(message) for message in conversation.messages)
    return replace(conversation, messages=messages) if messages != conversation.messages else None


def _other_message(message: Message) -> Message:
    calls = message.extra.get("tool_calls")
    if not calls:
        return message
    return replace(message, extra={**message.extra, "tool_calls": [_other_call(call) for call in calls]})


def _other_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = _function(call)
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        changed = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
    elif isinstance(arguments, str) and isinstance(value := _parsed(arguments), dict):
        changed = {**function, "arguments": value}
    else:
        return call
    return {**call, "function": changed} if "function" in call else changed


def _parsed(text: str) -> Any:
    """The JSON value of a text; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
