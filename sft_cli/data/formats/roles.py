"""Resolve the roles of messages: the names that data sets use, and those that a source's ``roles`` adds."""

import json
import re
from collections.abc import Mapping
from typing import Any

from sft_cli.data.formats.row_context import RowContext, fold_role
from sft_cli.data.row_errors import RowError, format_list, short_repr
from sft_cli.utils.similar import closest_name

ROLE_NAMES = {
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
    "function_result": "tool",
    "function_return": "tool",
    "function_output": "tool",
    "tool_result": "tool",
    "tool_return": "tool",
    "tool_output": "tool",
}
"""Names that data sets use -> the four roles; case, spaces, hyphens and underscores are ignored."""

TOOL_CALL = "tool_call"
"""The role of a turn that holds the JSON of a tool call; it becomes a message of the assistant."""
TOOL_CALL_ROLES = ("function_call", TOOL_CALL, "fncall", "fn_call")

_KNOWN = {fold_role(name): role for name, role in ROLE_NAMES.items()} | {
    fold_role(name): TOOL_CALL for name in TOOL_CALL_ROLES
}
_LIKELY = {"customer": "user", "client": "user", "person": "user", "student": "user", "patient": "user"}
_PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][a-z0-9_.-]*( [a-z0-9_.-]+)*")
"""Names that need no quotes as a key of ``roles={…}``."""


def known_role(name: str) -> str | None:
    """Return the role that a name stands for without a source's ``roles``; None for an unknown name."""
    return _KNOWN.get(fold_role(name))


def parse_role(turn: Mapping[str, Any], key: str, field: str, context: RowContext) -> str:
    """Return the role for the name in a data set: one of the four, or ``TOOL_CALL``."""
    if key not in turn:
        raise RowError(
            where=context.where,
            reason="missing role",
            problem=f"field {field!r} has neither 'role' nor 'from'; it has {format_list(turn) or 'no keys'}",
            fix='write each message as {"role": "user", "content": "…"}',
        )
    name = turn[key]
    if isinstance(name, str):
        role = _KNOWN.get(name) if not context.roles else None
        role = role or context.roles.get(fold_role(name)) or _KNOWN.get(fold_role(name))
        if role is not None:
            return role
    raise RowError(
        where=context.where,
        reason="unknown role",
        problem=f"field '{field}.{key}' is {short_repr(name)}; expected one of {format_list(ROLE_NAMES, limit=30)}",
        fix=_advice(name, context.source) if isinstance(name, str) and name.strip() else "fill in the role",
    )


def _advice(name: str, source: str) -> str:
    """Return the ``roles`` setting that maps an unknown name, ready to be pasted."""
    word = " ".join(name.lower().split())
    calls = "call" in word
    near = closest_name(fold_role(name), (known for known, role in _KNOWN.items() if calls or role != TOOL_CALL))
    role = _KNOWN[near] if near else _LIKELY.get(word, "assistant")
    others = ", ".join(other for other in ("system", "user", "assistant", "tool") if other != role)
    if _PLAIN.fullmatch(word):
        return f"'data.mix.{source}.roles={{{word}: {role}}}', or with {others} instead of {role}"
    written = json.dumps(word, ensure_ascii=False)
    return f"in a recipe write roles: {{{written}: {role}}} under data.mix.{source}, or rename the role in the file"
