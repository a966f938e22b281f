"""The forms in which clients send the same conversation: where reasoning is, how arguments are written, ids of calls.

Forms are tried in the order servers use: reasoning where the template reads it, argument objects before JSON text
(servers parse what clients send as text), calls as they are before calls with a type and an id of nine characters (as
Mistral's servers make them). A later form is taken only where the template wrote nothing that could be used of the
earlier one: it raised an error, or it wrote objects as Python or HTML.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from sft_cli.chat.masks.content_check import function_of, parsed
from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import TemplateRefusal
from sft_cli.types import Conversation, Message

ID_LENGTH = 9
"""Letters and digits of a call's id where a template insists (Mistral)."""
PARTS, IN_CONTENT = "parts", "content"
"""Places of reasoning besides a key: a content part of type ``thinking``; between tags in the content."""
Value = TypeVar("Value")
Change = Callable[[tuple[Message, ...]], tuple[Message, ...]]


class Form(NamedTuple):
    """A conversation as a client may send it, and remarks (keys of data/remarks.py) about how it differs."""

    conversation: Conversation
    remarks: tuple[str, ...] = ()


def in_any_form(forms: Iterator[Form], read: Callable[[Form], Value]) -> Value:
    """``read`` of the first form that it does not refuse.

    Raises:
        TemplateRefusal: It refuses one of which the template wrote something, or all. The reason is that of the form
            that came furthest, of several the first.
    """
    refusals: list[TemplateRefusal] = []
    for form in forms:
        try:
            return read(form)
        except TemplateRefusal as refusal:
            refusals.append(refusal)
            if not refusal.unwritten:
                break
    raise next((refusal for refusal in refusals if not refusal.unwritten), refusals[0])


def forms(conversation: Conversation, find_places: Callable[[], Sequence[str]]) -> Iterator[Form]:
    """The forms of a conversation in the order in which servers use them, none twice.

    Args:
        conversation: As its row gives it.
        find_places: Where the template reads reasoning, the best first: a key, ``PARTS`` or ``IN_CONTENT``; none for
            a template without a format for reasoning, which then is put into the content, between tags.
    """
    if not any(message.extra or "</think>" in message.content for message in conversation.messages):
        yield Form(conversation)
        return
    messages = tuple(without_blank_reasoning(message) for message in conversation.messages)
    seen: list[tuple[Message, ...]] = []
    reasons = any(_reasoning(message) is not None for message in messages)
    places = tuple(find_places()) if reasons else ()
    for place in (places or (IN_CONTENT,)) if reasons else ("",):
        placed = _PLACED[place](messages) if place in _PLACED else _under(place)(messages)
        loose = ("reasoning_in_text",) if reasons and not places else ()
        for identified in (_same, with_ids):
            for argued, remarks in ((_as_objects, ()), (_as_text, ("arguments_as_text",))):
                changed = argued(identified(placed))
                if changed not in seen:
                    seen.append(changed)
                    yield Form(replace(conversation, messages=changed), (*loose, *remarks))


def without_blank_reasoning(message: Message) -> Message:
    """A message without reasoning keys that hold nothing: null, "" and blank are the same as no key."""
    blank = [key for key in reasoning_blocks.KEYS if key in message.extra and _is_blank(message.extra[key])]
    if not blank:
        return message
    return replace(message, extra={key: value for key, value in message.extra.items() if key not in blank})


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


def _is_blank(value: Any) -> bool:
    """Whether reasoning says nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def _same(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages


def _each(move: Callable[[Message, str, str], Message]) -> Change:
    """Applies a change to every message that reasons, given its reasoning and its content without."""

    def moved(message: Message) -> Message:
        found = _reasoning(message)
        return message if found is None else move(message, *found)

    return lambda messages: tuple(moved(message) for message in messages)


def _under(key: str) -> Change:
    """Moves reasoning under ``key``."""

    def move(message: Message, reasoning: str, content: str) -> Message:
        return replace(message, content=content, extra={**_without_reasoning(message), key: reasoning})

    return _each(move)


def _into_content(message: Message, reasoning: str, content: str) -> Message:
    """The message with its reasoning in the content, between the tags and lines that reasoning models write."""
    if reasoning_blocks.block(message.content) is not None:
        return replace(message, extra=_without_reasoning(message))
    return replace(message, content=f"<think>\n{reasoning}\n</think>\n\n{content}", extra=_without_reasoning(message))


def _into_parts(message: Message, reasoning: str, content: str) -> Message:
    """The message with its reasoning under a key that ``as_sent`` makes a content part of."""
    return replace(message, content=content, extra={**_without_reasoning(message), PARTS: reasoning})


_PLACED: Mapping[str, Change] = {"": _same, IN_CONTENT: _each(_into_content), PARTS: _each(_into_parts)}


def as_sent(message: Message) -> dict[str, Any]:
    """A message of a form as a client sends it: role, content (text or parts) and its further keys."""
    extra = dict(message.extra)
    reasoning = extra.pop(PARTS, None)
    if reasoning is None:
        return {"role": message.role, "content": message.content, **extra}
    parts = [{"type": "thinking", "thinking": reasoning}]
    parts += [{"type": "text", "text": message.content}] if message.content else []
    return {"role": message.role, "content": parts, **extra}


def _reasoning(message: Message) -> tuple[str, str] | None:
    """The reasoning of an assistant message and its content without; None if it has none."""
    if message.role != "assistant":
        return None
    block = reasoning_blocks.block(message.content)
    values = {message.extra[key].strip() for key in reasoning_blocks.KEYS if isinstance(message.extra.get(key), str)}
    if block is not None:
        reasoning = message.content[block.start : block.end].strip()
        if not reasoning and not values:
            return None
        return (reasoning, message.content[block.answer :]) if values <= {reasoning} else None
    return (values.pop(), message.content) if len(values) == 1 else None


def _without_reasoning(message: Message) -> dict[str, Any]:
    """Further keys of a message but those of its reasoning."""
    return {key: value for key, value in message.extra.items() if key not in reasoning_blocks.KEYS}


def _as_objects(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages with the arguments of calls as objects, where they are JSON text of one."""
    return _with_calls(messages, lambda value: parsed(value) if isinstance(value, str) else value)


def _as_text(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages with the arguments of calls as JSON text."""
    return _with_calls(messages, lambda value: json.dumps(value, ensure_ascii=False))


def _with_calls(messages: tuple[Message, ...], change: Callable[[Any], Any]) -> tuple[Message, ...]:
    """Messages with changed arguments where they are an object, or the text of one."""

    def changed(call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = function_of(call)
        given = function.get("arguments")
        new = change(given)
        if not isinstance(parsed(new) if isinstance(new, str) else new, dict) or isinstance(given, type(new)):
            return call
        function = {**function, "arguments": new}
        return {**call, "function": function} if "function" in call else {**call, **function}

    return tuple(
        replace(message, extra={**message.extra, "tool_calls": [changed(call) for call in message.extra["tool_calls"]]})
        if message.extra.get("tool_calls")
        else message
        for message in messages
    )
