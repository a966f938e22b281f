"""Formats of message lists: messages and sharegpt. Each message may use role/content or from/value."""

import json
import math
from collections.abc import Mapping
from typing import Any

from sft_cli.data.formats.fields import Fields, check_unicode, checked_text, tool_schemas, wrong_type
from sft_cli.data.problems import RowError, listing, nearest, shorten
from sft_cli.data.types import Conversation, Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
"""Names that data sets use -> the four roles."""

TOOL_CALL_ROLES = ("function_call", "tool_call")

WEIGHTS = ("weight", "loss_weight")


def messages(fields: Fields, input_separator: str) -> Conversation:
    """``{messages, tools?, system?}``."""
    return _conversation(fields, "messages")


def sharegpt(fields: Fields, input_separator: str) -> Conversation:
    """``{conversations, tools?, system?}``."""
    return _conversation(fields, "conversations")


def _conversation(fields: Fields, name: str) -> Conversation:
    """The messages under ``name``, with the system message of a column of its own in front."""
    field, row = fields.columns[name], fields.row
    value = fields.values[name]
    if not isinstance(value, list):
        raise wrong_type(value, field, "a list of messages", row.where)
    turns = [_message(turn, f"{field}[{index}]", row.where) for index, turn in enumerate(value)]
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(
            where=row.where,
            reason="no assistant turn",
            problem=f"field {field!r} has {_count(turns)}; there is nothing to learn to say",
            fix="add the assistant's answer or remove the row",
        )
    system = fields.optional("system")
    if system.strip():
        if turns[0].role == "system":
            raise RowError(
                where=row.where,
                reason="two system messages",
                problem=f"fields {fields.columns['system']!r} and '{field}[0]' both hold a system message",
                fix="keep one of them",
            )
        turns.insert(0, Message("system", system))
    return Conversation(tuple(turns), where=row.where, source=row.source, tools=tool_schemas(fields))


def _count(turns: list[Message]) -> str:
    """``no messages`` or ``2 messages (system, user)`` and none by the assistant."""
    if not turns:
        return "no messages"
    plural = "messages" if len(turns) > 1 else "message"
    return f"{len(turns)} {plural} ({listing(turn.role for turn in turns)}), none of the assistant"


def _message(turn: Any, field: str, where: str) -> Message:
    """One message, checked; further keys that have a value ride along for the template."""
    if not isinstance(turn, dict):
        raise wrong_type(turn, field, "an object with role and content", where)
    keys = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    role = _role(turn, keys[0], field, where)
    extra = {key: value for key, value in turn.items() if key not in (*keys, *WEIGHTS) and value is not None}
    calls = _tool_calls(extra, field, where)
    value = turn.get(keys[1])
    content = "" if value is None and calls else _content(value, f"{field}.{keys[1]}", where)
    # An answer of "" is silence on purpose (counted and shown); a missing one is a mistake.
    silent = role == "assistant" and isinstance(value, str)
    if not content.strip() and not calls and not silent and role in ("user", "assistant"):
        raise RowError(
            where=where,
            reason="empty answer" if role == "assistant" else "empty question",
            problem=f"field '{field}.{keys[1]}' ({role}) is {shorten(value)}; expected non-empty text",
            fix="fill it in or remove the row; data.on_bad_row=drop leaves such rows out",
        )
    if extra:
        check_unicode(json.dumps(extra, ensure_ascii=False, default=str), field, where)
    return Message(role, content, _weight(turn, field, where), extra)


def _role(turn: Mapping[str, Any], key: str, field: str, where: str) -> str:
    """The role behind the name a data set gives it."""
    if key not in turn:
        raise RowError(
            where=where,
            reason="missing role",
            problem=f"field {field!r} has neither 'role' nor 'from'; it has {listing(turn) or 'no keys'}",
            fix='write each message as {"role": "user", "content": "…"}',
        )
    name = turn[key]
    if isinstance(name, str) and name in ROLES:
        return ROLES[name]
    if name in TOOL_CALL_ROLES:
        raise RowError(
            where=where,
            reason=f"{name} turn",
            problem=f"field '{field}.{key}' is {name!r}: a tool call written as text cannot be rendered by a template",
            fix="write it as an assistant message with tool_calls, or leave such rows out with data.on_bad_row=drop",
        )
    near = nearest(name, ROLES) if isinstance(name, str) else None
    raise RowError(
        where=where,
        reason="unknown role",
        problem=f"field '{field}.{key}' is {shorten(name)}; expected one of {listing(ROLES, limit=20)}",
        fix=f"did you mean {near!r}?" if near else "rename the role",
    )


def _content(value: Any, field: str, where: str) -> str:
    """Text, or the joined texts of a list of parts."""
    if not isinstance(value, list):
        return "" if value is None else checked_text(value, field, where)
    texts = []
    for index, part in enumerate(value):
        place = f"{field}[{index}]"
        if not isinstance(part, dict):
            raise wrong_type(part, place, "a part with a type", where)
        if part.get("type") != "text":
            raise RowError(
                where=where,
                reason=f"content part of type {part.get('type')}",
                problem=f"field '{place}.type' is {shorten(part.get('type'))}; only text can be trained on",
                fix="write it as text, or leave such rows out with data.on_bad_row=drop",
            )
        key = "text" if "text" in part else "value"
        texts.append(checked_text(part.get(key), f"{place}.{key}", where))
    return "".join(texts)


def _tool_calls(extra: dict[str, Any], field: str, where: str) -> bool:
    """Whether the message calls tools; an empty list is taken out of ``extra``."""
    if "function_call" in extra:
        raise RowError(
            where=where,
            reason="function_call key",
            problem=f"field '{field}.function_call' is the old spelling of a tool call; templates do not read it",
            fix='write "tool_calls": [{"type": "function", "function": {…}}] instead',
        )
    calls = extra.get("tool_calls")
    if calls is None:
        return False
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise wrong_type(calls, f"{field}.tool_calls", "a list of tool calls", where)
    if not calls:
        del extra["tool_calls"]
    return bool(calls)


def _weight(turn: Mapping[str, Any], field: str, where: str) -> float:
    """The message's factor on the loss, 1 when it has none."""
    given = {key: turn[key] for key in WEIGHTS if turn.get(key) is not None}
    if not given:
        return 1.0
    key, value = next(iter(given.items()))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if len(given) > 1 or not number or not math.isfinite(value) or value < 0:
        wrong = f"is {shorten(value)}" if len(given) == 1 else "stands beside loss_weight"
        raise RowError(
            where=where,
            reason="invalid weight",
            problem=f"field '{field}.{key}' {wrong}; expected one finite number of at least 0",
            fix="write 1 to train on the message and 0 to switch it off",
        )
    return float(value)
