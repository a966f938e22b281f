"""Content that is a list of parts: text, reasoning, tool_call. They become one message as templates read it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_cli.data.formats.fields import checked_text, wrong_type
from sft_cli.data.formats.tools import Calls, calls_in_text
from sft_cli.data.problems import RowError, shorten

ORDER = ("reasoning", "text", "tool_call")
"""The types of parts in the order in which templates show them."""


class Parts(NamedTuple):
    """What the parts of a message hold.

    Attributes:
        text: The texts, joined.
        extra: ``reasoning_content`` and ``tool_calls``, if there are any.
        repaired: Whether tool arguments had to be repaired.
    """

    text: str
    extra: Mapping[str, Any]
    repaired: bool = False


def content_parts(value: Any, role: str, extra: Mapping[str, Any], field: str, where: str) -> Parts:
    """The content of a message: text as it is, or the parts of a list.

    Args:
        value: The content; None is empty.
        role: Role of the message; only the assistant reasons and calls tools.
        extra: The message's other keys, which parts must not contradict.
        field: Name of the content in errors.
        where: Place of the row.
    """
    if not isinstance(value, list):
        return Parts("" if value is None else checked_text(value, field, where), {})
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls: Calls = []
    last, repaired = "reasoning", False
    for index, part in enumerate(value):
        place = f"{field}[{index}]"
        kind = _kind(part, role, place, where)
        if ORDER.index(kind) < ORDER.index(last):
            raise _out_of_order(kind, last, place, where)
        last = kind
        key = kind if kind in part else "text" if "text" in part else "value"
        if kind == "tool_call":
            found, twice = calls_in_text(part.get(key), kind, f"{place}.{key}", where)
            calls, repaired = calls + found, repaired or twice
        else:
            texts[kind].append(checked_text(part.get(key), f"{place}.{key}", where))
    held = {"reasoning_content": "".join(texts["reasoning"]), "tool_calls": calls}
    added = {key: entry for key, entry in held.items() if entry}
    for key in added:
        if key in extra:
            raise RowError(
                where=where,
                reason=f"two spellings of {key}",
                problem=f"field {field!r} has parts of {key} beside the message's own {key}",
                fix="keep one of them",
            )
    return Parts("".join(texts["text"]), added, repaired)


def _kind(part: Any, role: str, place: str, where: str) -> str:
    """The type of a part, if a message of the role may have it."""
    if not isinstance(part, dict):
        raise wrong_type(part, place, "a part with a type", where)
    kind = part.get("type")
    if kind == "text" or (kind in ORDER and role == "assistant"):
        return kind
    known = kind in ORDER
    raise RowError(
        where=where,
        reason=f"{kind} part of a {role} message" if known else f"content part of type {shorten(kind).strip(chr(39))}",
        problem=f"field '{place}.type' is {shorten(kind)}; "
        + (f"a {role} message has parts of type text alone" if known else "only text can be trained on"),
        fix="write it as text, or leave such rows out with data.on_bad_row=drop",
    )


def _out_of_order(kind: str, last: str, place: str, where: str) -> RowError:
    """Templates write reasoning, text, calls in this order: another one would be changed in silence."""
    return RowError(
        where=where,
        reason="content parts in another order",
        problem=f"field {place!r} is a part of type {kind} behind one of type {last}; "
        "templates show reasoning, then text, then tool calls",
        fix="put the parts into that order, or split the message in two",
    )
