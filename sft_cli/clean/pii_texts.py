"""Read and change the texts of a conversation that may hold personal data."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from sft_cli.types import Conversation, Message

TextFunction = Callable[[str], str]
IDENTIFIER_KEYS = ("tool_call_id", "name", "id", "type")
"""Keys of a message that hold identifiers, and must not change."""


def message_texts(conversation: Conversation, roles: Collection[str]) -> list[str]:
    """Return all texts of the messages of these roles, or of a document, in order."""
    texts: list[str] = []

    def keep(text: str) -> str:
        texts.append(text)
        return text

    map_texts(conversation, roles, keep)
    return texts


def map_texts(conversation: Conversation, roles: Collection[str], change: TextFunction) -> Conversation:
    """Return the conversation with ``change`` applied to each of its texts; the same object if nothing changes."""
    if conversation.text is not None:
        text = _text(conversation.text, change)
        return conversation if text == conversation.text else replace(conversation, text=text)
    messages = tuple(_message(m, change) if m.role in roles else m for m in conversation.messages)
    same = all(new is old for new, old in zip(messages, conversation.messages, strict=True))
    return conversation if same else replace(conversation, messages=messages)


def _message(message: Message, change: TextFunction) -> Message:
    """Return the message with content, reasoning and tool-call arguments changed; itself if nothing changes."""
    content = _text(message.content, change)
    extra = {key: _extra(key, value, change) for key, value in message.extra.items()}
    same = content == message.content and extra == message.extra
    return message if same else replace(message, content=content, extra=extra)


def _extra(key: str, value: Any, change: TextFunction) -> Any:
    """Return the changed value of another key of a message; of tool calls only the arguments change."""
    if key in IDENTIFIER_KEYS:
        return value
    if key != "tool_calls":
        return _value(value, change)
    return [_call(call, change) for call in value]


def _call(call: Mapping[str, Any], change: TextFunction) -> dict[str, Any]:
    """Return a tool call with its arguments changed, which may be in the call or in its function."""
    changes: dict[str, Callable[[Any, TextFunction], Any]] = {"arguments": _value, "function": _call}
    return {key: changes[key](value, change) if key in changes else value for key, value in call.items()}


def _value(value: Any, change: TextFunction, key: str = "") -> Any:
    """Return a JSON value with each text, integer and key changed; ``key`` is the name of its entry, if any."""
    if isinstance(value, list):
        return [_value(part, change, key) for part in value]
    if isinstance(value, Mapping):
        return {change(name): _value(part, change, name) for name, part in value.items()}
    if isinstance(value, str):
        return _text(value, change) if _num_objects(value) else _change_with_key(key, value, change)
    if isinstance(value, int) and not isinstance(value, bool):
        changed = _change_with_key(key, str(value), change)
        return value if changed == str(value) else changed
    return value


def _change_with_key(key: str, text: str, change: TextFunction) -> str:
    """Return a text changed as if it followed its key: ``phone`` marks the number after it."""
    context = re.sub("[^a-z]+", " ", key.lower())[-40:] + ": "  # contains no finding itself
    return change(context + text).removeprefix(context)


def _text(text: str, change: TextFunction) -> str:
    """Return the changed text; JSON stays valid JSON: a placeholder for a bare number gets quotation marks."""
    changed = change(text)
    if changed == text or _num_objects(text) == _num_objects(changed):
        return changed
    value = json.loads(text)
    by_value = _value(value, change)
    return changed if by_value == value else json.dumps(by_value, ensure_ascii=text.isascii())


def _num_objects(value: Any) -> int:
    """Return the number of JSON objects and lists in a value, including nested ones and JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return _num_objects(json.loads(value))
        except ValueError:
            return 0
    if isinstance(value, dict):
        return 1 + sum(_num_objects(part) for part in value.values())
    return 1 + sum(_num_objects(part) for part in value) if isinstance(value, list) else 0
