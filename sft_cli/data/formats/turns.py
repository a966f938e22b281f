"""Formats of message lists: messages and sharegpt. Each message may use role/content or from/value."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_cli.data.formats.fields import Fields, Knobs, check_unicode, listed, wrong_type
from sft_cli.data.formats.parts import content_parts
from sft_cli.data.formats.tools import TWICE, calls_in_text, old_call, tool_calls, tool_schemas
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
    "tool_response": "tool",
    "ipython": "tool",
}
"""Names that data sets use -> the four roles."""

TOOL_CALL_ROLES = ("function_call", "tool_call")

WEIGHTS = ("weight", "loss_weight")


class Turn(NamedTuple):
    """A message, and whether its tool arguments had to be repaired."""

    message: Message
    repaired: bool = False


def messages(fields: Fields, knobs: Knobs) -> tuple[Conversation, ...]:
    """``{messages, tools?, functions?, system?}``."""
    return (conversation(fields, read_turns(fields, "messages"), "messages"),)


def sharegpt(fields: Fields, knobs: Knobs) -> tuple[Conversation, ...]:
    """``{conversations, tools?, system?}``."""
    return (conversation(fields, read_turns(fields, "conversations"), "conversations"),)


def read_turns(fields: Fields, name: str) -> list[Turn]:
    """The messages under ``name``; neighbouring turns that each hold one tool call become one message."""
    field, where = fields.columns[name], fields.row.where
    value = listed(fields.values[name])
    if not isinstance(value, list):
        raise wrong_type(value, field, "a list of messages", where)
    turns: list[Turn] = []
    after_call = False
    for index, entry in enumerate(value):
        turn = _turn(entry, f"{field}[{index}]", where)
        is_call = isinstance(entry, dict) and entry.get("role", entry.get("from")) in TOOL_CALL_ROLES
        if is_call and after_call and turn.message.weight == turns[-1].message.weight:
            turn = _together(turns.pop(), turn)
        turns.append(turn)
        after_call = is_call
    return turns


def conversation(fields: Fields, turns: list[Turn], name: str) -> Conversation:
    """The turns of column ``name``, with the system message of a column of its own in front, and the tools."""
    field, row = fields.columns[name], fields.row
    found = [turn.message for turn in turns]
    if not any(message.role == "assistant" for message in found):
        raise RowError(
            where=row.where,
            reason="no assistant turn",
            problem=f"field {field!r} has {_count(found)}; there is nothing to learn to say",
            fix="add the assistant's answer or remove the row",
        )
    system = fields.optional("system")
    if system.strip():
        if found[0].role == "system":
            raise RowError(
                where=row.where,
                reason="two system messages",
                problem=f"fields {fields.columns['system']!r} and '{field}[0]' both hold a system message",
                fix="keep one of them",
            )
        found.insert(0, Message("system", system))
    tags = {"repaired": TWICE} if any(turn.repaired for turn in turns) else {}
    return Conversation(tuple(found), where=row.where, source=row.source, tools=tool_schemas(fields), tags=tags)


def _count(turns: list[Message]) -> str:
    """``no messages`` or ``2 messages (system, user)`` and none by the assistant."""
    if not turns:
        return "no messages"
    plural = "messages" if len(turns) > 1 else "message"
    return f"{len(turns)} {plural} ({listing(turn.role for turn in turns)}), none of the assistant"


def _turn(turn: Any, field: str, where: str) -> Turn:
    """One message, checked; further keys that have a value ride along for the template."""
    if not isinstance(turn, dict):
        raise wrong_type(turn, field, "an object with role and content", where)
    keys = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    role = role_of(turn, keys[0], field, where)
    value, extra, repaired = _split(turn, keys, field, where)
    content, calls = "", "tool_calls" in extra
    if value is not None or not calls:
        parts = content_parts(value, role, extra, f"{field}.{keys[1]}", where)
        content, extra, repaired = parts.text, {**extra, **parts.extra}, repaired or parts.repaired
    # An answer of "" is silence on purpose (counted and shown); a missing one is a mistake.
    silent = role == "assistant" and isinstance(value, str)
    if not content.strip() and "tool_calls" not in extra and not silent and role in ("user", "assistant"):
        raise RowError(
            where=where,
            reason="empty answer" if role == "assistant" else "empty question",
            problem=f"field '{field}.{keys[1]}' ({role}) is {shorten(value)}; expected non-empty text",
            fix="fill it in or remove the row; data.on_bad_row=drop leaves such rows out",
        )
    if extra:
        check_unicode(json.dumps(extra, ensure_ascii=False, default=str), field, where)
    return Turn(Message(role, content, _weight(turn, field, where), extra), repaired)


def _split(turn: Mapping[str, Any], keys: tuple[str, str], field: str, where: str) -> tuple[Any, dict[str, Any], bool]:
    """The content of a message as it stands, its further keys with the tool calls in one spelling, and if repaired."""
    value = turn.get(keys[1])
    extra = {key: entry for key, entry in turn.items() if key not in (*keys, *WEIGHTS) and entry is not None}
    calls, repaired = [], False
    if turn[keys[0]] in TOOL_CALL_ROLES:
        calls, repaired = calls_in_text(value, turn[keys[0]], f"{field}.{keys[1]}", where)
        value = None
    elif "function_call" in extra:
        calls, repaired = old_call(extra.pop("function_call"), f"{field}.function_call", where)
    if "tool_calls" in extra:
        if calls:
            raise RowError(
                where=where,
                reason="two spellings of tool calls",
                problem=f"field '{field}.tool_calls' stands beside a second spelling of tool calls",
                fix="keep one of them",
            )
        calls, repaired = tool_calls(extra.pop("tool_calls"), f"{field}.tool_calls", where)
    if calls:
        extra["tool_calls"] = calls
    return value, extra, repaired


def _together(first: Turn, second: Turn) -> Turn:
    """Two turns of tool calls with nothing between them as one message: calls made at once."""
    extra = {**first.message.extra, **second.message.extra}
    extra["tool_calls"] = [*first.message.extra["tool_calls"], *second.message.extra["tool_calls"]]
    message = Message("assistant", "", first.message.weight, extra)
    return Turn(message, first.repaired or second.repaired)


def role_of(turn: Mapping[str, Any], key: str, field: str, where: str) -> str:
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
        return "assistant"
    near = nearest(name, ROLES) if isinstance(name, str) else None
    raise RowError(
        where=where,
        reason="unknown role",
        problem=f"field '{field}.{key}' is {shorten(name)}; expected one of {listing(ROLES, limit=20)}",
        fix=f"did you mean {near!r}?" if near else "rename the role",
    )


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
