"""The forms in which templates read the same conversation: tool arguments, ids of calls, where the reasoning stands.

Some templates fail on arguments that are an object, others on arguments that are JSON text; some want every call to
have a type and an id of nine characters, as Mistral's servers make them; some show reasoning from a key of one name or
another and some only what stands in the content. Servers convert between these too.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sft_cli.chat import thinking
from sft_cli.chat.said import function_of, parsed
from sft_cli.chat.template import TemplateRefusal
from sft_cli.data.types import Conversation, Message

ID_LENGTH = 9
"""Letters and digits of a call's id where a template insists (Mistral)."""
UNWRITTEN = ("the template refuses it", "the template fails on it")
"""How refusals begin for which the template wrote nothing."""
Value = TypeVar("Value")
Change = Callable[[tuple[Message, ...]], tuple[Message, ...]]


def in_any_form(conversation: Conversation, read: Callable[[Conversation], Value]) -> Value:
    """``read`` of the conversation in the first form that it does not refuse; as given comes first.

    Raises:
        TemplateRefusal: It refuses all. Told is the first refusal of what the template wrote; if it wrote nothing in
            any form, its first complaint.
    """
    refusals: list[TemplateRefusal] = []
    for form in forms(conversation):
        try:
            return read(form)
        except TemplateRefusal as refusal:
            refusals.append(refusal)
    raise next((refusal for refusal in refusals if not str(refusal).startswith(UNWRITTEN)), refusals[0])


def forms(conversation: Conversation) -> Iterator[Conversation]:
    """The conversation as given, then each other form it has, none twice."""
    yield conversation
    seen = [conversation.messages]
    for reasoned in (_same, *(_under(key) for key in thinking.KEYS), _in_content):
        for identified in (_same, with_ids):
            for argued in (_same, _other_arguments):
                messages = argued(identified(reasoned(conversation.messages)))
                if messages not in seen:
                    seen.append(messages)
                    yield replace(conversation, messages=messages)


def under_key(conversation: Conversation, key: str) -> Conversation:
    """The conversation with the reasoning of its answers under a key."""
    return replace(conversation, messages=_under(key)(conversation.messages))


def with_ids(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages whose calls have a type and an id of nine letters and digits, and whose results name call and tool.

    An id follows from the call and its place in the conversation alone.
    """
    changed, open_calls, renamed, number = [], [], {}, 0
    for message in messages:
        calls = message.extra.get("tool_calls") or ()
        if calls:
            open_calls = []
            for call in calls:
                named = _identified(call, number)
                renamed[call.get("id")] = named
                open_calls.append(named)
                number += 1
            message = replace(message, extra={**message.extra, "tool_calls": list(open_calls)})
        elif message.role == "tool" and open_calls:
            given = message.extra.get("tool_call_id")
            answered = renamed[given] if given is not None and given in renamed else open_calls[0]
            open_calls = [call for call in open_calls if call is not answered]
            name = message.extra.get("name", answered["function"].get("name"))
            message = replace(message, extra={**message.extra, "tool_call_id": answered["id"], "name": name})
        changed.append(message)
    return tuple(changed)


def _identified(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A call as OpenAI's clients send it, its id fit for every template."""
    id = call.get("id")
    if not (isinstance(id, str) and len(id) == ID_LENGTH and id.isalnum()):
        function = function_of(call)
        arguments = function.get("arguments")
        value = parsed(arguments) if isinstance(arguments, str) else arguments
        content = json.dumps([number, function.get("name"), value], sort_keys=True)
        id = hashlib.sha256(content.encode()).hexdigest()[:ID_LENGTH]
    further = {key: value for key, value in call.items() if key not in ("name", "arguments", "function")}
    return {**further, "id": id, "type": call.get("type", "function"), "function": function_of(call)}


def _same(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages


def _under(key: str) -> Change:
    """Moves reasoning under ``key``."""

    def move(message: Message) -> Message:
        found = _reasoning(message)
        if found is None:
            return message
        reasoning, content = found
        return replace(message, content=content, extra={**_without_reasoning(message), key: reasoning})

    return lambda messages: tuple(move(message) for message in messages)


def _in_content(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages whose reasoning stands in their content, between the tags and lines that reasoning models write."""

    def move(message: Message) -> Message:
        found = _reasoning(message)
        if found is None or thinking.block(message.content) is not None:
            return message
        content = f"<think>\n{found[0]}\n</think>\n\n{found[1]}"
        return replace(message, content=content, extra=_without_reasoning(message))

    return tuple(move(message) for message in messages)


def _reasoning(message: Message) -> tuple[str, str] | None:
    """The reasoning of an assistant message and its content without; None if it has none."""
    if message.role != "assistant":
        return None
    block = thinking.block(message.content)
    if block is not None:
        return message.content[block.start : block.end].strip(), message.content[block.answer :]
    values = [message.extra[key] for key in thinking.KEYS if isinstance(message.extra.get(key), str)]
    return (values[0].strip(), message.content) if len(set(values)) == 1 else None


def _without_reasoning(message: Message) -> dict[str, Any]:
    """Further keys of a message but those of its reasoning."""
    return {key: value for key, value in message.extra.items() if key not in thinking.KEYS}


def _other_arguments(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages with argument objects as JSON text and JSON text as objects."""
    return tuple(
        replace(message, extra={**message.extra, "tool_calls": _other_calls(message.extra["tool_calls"])})
        if message.extra.get("tool_calls")
        else message
        for message in messages
    )


def _other_calls(calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [_other_call(call) for call in calls]


def _other_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = function_of(call)
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        changed = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
    elif isinstance(arguments, str) and isinstance(value := parsed(arguments), dict):
        changed = {**function, "arguments": value}
    else:
        return call
    return {**call, "function": changed} if "function" in call else changed
