"""Convert message content that is a list of parts (OpenAI, Anthropic and others) to the fields that templates read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sft_cli.data.formats.fields import checked_text, wrong_type
from sft_cli.data.formats.loss_flags import is_loss_flag, loss_weight
from sft_cli.data.formats.message_keys import check_part_keys
from sft_cli.data.formats.row_context import RowContext, has_value
from sft_cli.data.formats.tool_calls import Calls, normalize_call, parse_call_text
from sft_cli.data.row_errors import RowError, short_repr

PART_ORDER = ("reasoning", "text", "tool_call")
"""The kinds of parts, in the order in which templates render them."""
TOOL_RESULT = "tool_result"
KINDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "text",
    "reasoning": "reasoning",
    "reasoning_text": "reasoning",
    "thinking": "reasoning",
    "tool_call": "tool_call",
    "tool_use": "tool_call",
    TOOL_RESULT: TOOL_RESULT,
}
"""Type of a part -> its kind."""
TEXT_KEYS = ("text", "value", "reasoning", "thinking", "refusal")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The text of a tool's result, and the id of the call it answers, or None."""

    text: str
    call: str | None


@dataclass(slots=True)
class ParsedContent:
    """The content of a message.

    Attributes:
        text: Its texts, joined.
        reasoning: Its reasoning texts, joined.
        calls: Tool calls.
        results: Tool results.
        weight: Factor on the loss, which all parts share; None when no part sets one.
    """

    text: str = ""
    reasoning: str = ""
    calls: Calls = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    weight: float | None = None


def parse_content(value: Any, role: str, place: str, names: str, context: RowContext) -> ParsedContent:
    """Return the content of a message: its text, or the parts of a list.

    Args:
        value: The content; None is empty.
        role: Role of the message, which decides the kinds of parts that it may have.
        place: Path of the content, for errors: ``messages[3].content``.
        names: Path of the content, for notes: ``messages[].content``.
        context: The row.
    """
    if not isinstance(value, list):
        return ParsedContent("" if value is None else checked_text(value, place, context.where))
    content = ParsedContent()
    weights: list[float | None] = []
    last_kind = ""
    for index, part in enumerate(value):
        part_place = f"{place}[{index}]"
        kind = _kind(part, role, part_place, context)
        if _rank(kind) < _rank(last_kind):
            raise _out_of_order(part.get("type", kind), last_kind, part_place, context)
        last_kind = kind
        flags = {key: entry for key, entry in part.items() if is_loss_flag(key)}
        weights.append(loss_weight(flags, part_place, role, f"{names}[]", context) if flags else None)
        _add_part(content, kind, part, part_place, f"{names}[]", context)
    if any(weight != weights[0] for weight in weights):
        raise RowError(
            where=context.where,
            reason="loss flags of parts",
            problem=f"the parts of field {place!r} are trained with different weights; a message has one",
            fix="split the message in two, or mask parts by their text: data.no_loss_patterns=['REGEX']",
        )
    content.weight = weights[0] if weights else None
    return content


def _add_part(
    content: ParsedContent, kind: str, part: Mapping[str, Any], place: str, names: str, context: RowContext
) -> None:
    """Add one part to the content of its message.

    Args:
        content: The content, changed in place.
        kind: Kind of the part.
        part: The part.
        place: Path of the part, for errors.
        names: Path of the part, for notes.
        context: The row.
    """
    read = ["type", *(key for key in part if is_loss_flag(key))]
    if kind == "tool_call":
        if part.get("type") == "tool_use":
            content.calls.append(
                normalize_call({key: part[key] for key in part if key != "type"}, place, names, context)
            )
            return
        key = _key(part, ("tool_call", "text", "value"))
        content.calls += parse_call_text(part.get(key), kind, f"{place}.{key}", names, context)
    elif kind == TOOL_RESULT:
        result = parse_content(part.get("content"), "user", f"{place}.content", f"{names}.content", context)
        call = next((part[key] for key in ("tool_use_id", "tool_call_id", "call_id") if has_value(part.get(key))), None)
        content.results.append(ToolResult(result.text, call))
        read += ["content", "tool_use_id", "tool_call_id", "call_id"]
        key = "content"
    else:
        key = _key(part, (str(part.get("type")), *TEXT_KEYS))
        text = checked_text(part.get(key), f"{place}.{key}", context.where)
        if kind == "text":
            content.text += text
        else:
            content.reasoning += text
    check_part_keys(part, [*read, key], place, names, context)


def _key(part: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of the names that is a key of the part; the last name if none is."""
    return next((name for name in names if name in part), names[-1])


def _kind(part: Any, role: str, place: str, context: RowContext) -> str:
    """Return the kind of a part, if a message of the role may have it."""
    if not isinstance(part, dict) or ("type" not in part and "text" not in part):
        raise wrong_type(part, place, "a part with a type", context.where)
    type_name = part.get("type", "text")
    kind = KINDS.get(type_name) if isinstance(type_name, str) else None
    allowed = (
        ("text", *PART_ORDER)
        if role == "assistant"
        else ("text", TOOL_RESULT)
        if role in ("user", "tool")
        else ("text",)
    )
    if kind is not None and kind in allowed:
        return kind
    fix = "write it as text"
    reason, problem = f"{type_name} part of a {role} message", f"a {role} message may have only parts of type text"
    if type_name == "redacted_thinking":
        reason, problem = "encrypted reasoning", "encrypted reasoning cannot be trained on"
    elif kind is None:
        reason, problem = f"content part of type {short_repr(type_name).strip(chr(39))}", "only text can be trained on"
        fix = "describe it in the text or remove the row"
    raise RowError(
        where=context.where,
        reason=reason,
        problem=f"field '{place}.type' is {short_repr(type_name)}; {problem}",
        fix=fix,
    )


def _rank(kind: str) -> int:
    """Return the position of a kind of part in a message, -1 for tool results, which come first."""
    return PART_ORDER.index(kind) if kind in PART_ORDER else -1


def _out_of_order(kind: str, last: str, place: str, context: RowContext) -> RowError:
    """Return the error for parts in an order that templates would change."""
    shown = (
        "templates show results of tools, then text"
        if kind == TOOL_RESULT
        else ("templates show reasoning, then text, then tool calls")
    )
    return RowError(
        where=context.where,
        reason="content parts in another order",
        problem=f"field {place!r} is a part of type {kind} after one of type {last}; {shown}",
        fix="put the parts into that order, or split the message in two",
    )
