"""Content that is a list of parts, as OpenAI, Anthropic and others write them, to one message as templates read it."""

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
"""The kinds of parts in the order in which templates show them."""
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
"""Types of parts -> what they are."""
TEXT_KEYS = ("text", "value", "reasoning", "thinking", "refusal")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered: its text, and the id of the call it answers, or None."""

    text: str
    call: str | None


@dataclass(slots=True)
class ParsedContent:
    """What the content of a message holds.

    Attributes:
        text: The texts, joined.
        reasoning: The texts of its reasoning, joined.
        calls: Tool calls.
        results: Results of tools.
        weight: Factor on the loss that all parts give; None when none says anything.
    """

    text: str = ""
    reasoning: str = ""
    calls: Calls = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    weight: float | None = None


def parse_content(value: Any, role: str, place: str, names: str, context: RowContext) -> ParsedContent:
    """The content of a message: text as it is, or the parts of a list.

    Args:
        value: The content; None is empty.
        role: Role of the message; only the assistant reasons and calls tools, and never answers for them.
        place: Where the content is, for errors: ``messages[3].content``.
        names: Where it is, for notes: ``messages[].content``.
        context: The row.
    """
    if not isinstance(value, list):
        return ParsedContent("" if value is None else checked_text(value, place, context.where))
    found = ParsedContent()
    weights: list[float | None] = []
    last = ""
    for index, part in enumerate(value):
        here = f"{place}[{index}]"
        kind = _kind(part, role, here, context)
        if _rank(kind) < _rank(last):
            raise _out_of_order(part.get("type", kind), last, here, context)
        last = kind
        flags = {key: entry for key, entry in part.items() if is_loss_flag(key)}
        weights.append(loss_weight(flags, here, role, f"{names}[]", context) if flags else None)
        _add_part(found, kind, part, here, f"{names}[]", context)
    if any(weight != weights[0] for weight in weights):
        raise RowError(
            where=context.where,
            reason="loss flags of parts",
            problem=f"the parts of field {place!r} are trained with different weights; a message has one",
            fix="split the message in two, or mask what is not learned with data.no_loss_patterns",
        )
    found.weight = weights[0] if weights else None
    return found


def _add_part(
    found: ParsedContent, kind: str, part: Mapping[str, Any], here: str, names: str, context: RowContext
) -> None:
    """Put one part where it belongs."""
    read = ["type", *(key for key in part if is_loss_flag(key))]
    if kind == "tool_call":
        if part.get("type") == "tool_use":
            found.calls.append(normalize_call({key: part[key] for key in part if key != "type"}, here, names, context))
            return
        key = _key(part, ("tool_call", "text", "value"))
        found.calls += parse_call_text(part.get(key), kind, f"{here}.{key}", names, context)
    elif kind == TOOL_RESULT:
        result = parse_content(part.get("content"), "user", f"{here}.content", f"{names}.content", context)
        call = next((part[key] for key in ("tool_use_id", "tool_call_id", "call_id") if has_value(part.get(key))), None)
        found.results.append(ToolResult(result.text, call))
        read += ["content", "tool_use_id", "tool_call_id", "call_id"]
        key = "content"
    else:
        key = _key(part, (str(part.get("type")), *TEXT_KEYS))
        text = checked_text(part.get(key), f"{here}.{key}", context.where)
        if kind == "text":
            found.text += text
        else:
            found.reasoning += text
    check_part_keys(part, [*read, key], here, names, context)


def _key(part: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of the names that the part has."""
    return next((name for name in names if name in part), names[-1])


def _kind(part: Any, role: str, place: str, context: RowContext) -> str:
    """What a part is, if a message of the role may have it."""
    if not isinstance(part, dict) or ("type" not in part and "text" not in part):
        raise wrong_type(part, place, "a part with a type", context.where)
    given = part.get("type", "text")
    kind = KINDS.get(given) if isinstance(given, str) else None
    allowed = (
        ("text", *PART_ORDER)
        if role == "assistant"
        else ("text", TOOL_RESULT)
        if role in ("user", "tool")
        else ("text",)
    )
    if kind is not None and kind in allowed:
        return kind
    reason, problem = f"{given} part of a {role} message", f"a {role} message has parts of type text alone"
    if given == "redacted_thinking":
        reason, problem = "encrypted reasoning", "reasoning that is encrypted cannot be trained on"
    elif kind is None:
        reason, problem = f"content part of type {short_repr(given).strip(chr(39))}", "only text can be trained on"
    raise RowError(
        where=context.where,
        reason=reason,
        problem=f"field '{place}.type' is {short_repr(given)}; {problem}",
        fix="write it as text, or leave such rows out with data.on_bad_row=drop",
    )


def _rank(kind: str) -> int:
    """Place of a kind of part in its message; results of tools come first."""
    return PART_ORDER.index(kind) if kind in PART_ORDER else -1


def _out_of_order(kind: str, last: str, place: str, context: RowContext) -> RowError:
    """Templates write results, reasoning, text, calls in this order: another one would be changed in silence."""
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
