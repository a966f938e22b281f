"""Tool schemas and tool calls in their several spellings; what comes out is what an OpenAI client sends."""

import json
from collections.abc import Mapping
from typing import Any

from sft_cli.data.formats.fields import Fields, check_unicode, listed, parsed, wrong_type
from sft_cli.data.problems import RowError, shorten

Calls = list[dict[str, Any]]

TWICE = "tool arguments encoded twice"
"""Value of the tag ``repaired`` of a conversation whose tool arguments were JSON text inside JSON text."""


def tool_schemas(fields: Fields) -> tuple[Mapping[str, Any], ...] | None:
    """The ``tools`` (or the older ``functions``) of a row, a list of objects or its JSON text; None for none."""
    given = [name for name in ("tools", "functions") if fields.values.get(name) not in (None, "", "[]", [])]
    where = fields.row.where
    if not given:
        return None
    if len(given) > 1:
        raise RowError(
            where=where,
            reason="tools and functions",
            problem=f"fields {fields.columns['tools']!r} and {fields.columns['functions']!r} both hold tool schemas",
            fix="keep one of them",
        )
    column, value = fields.columns[given[0]], fields.values[given[0]]
    if isinstance(value, str) and value.strip():
        try:
            value = parsed(value)
        except ValueError as error:
            raise RowError(
                where=where,
                reason="invalid tools",
                problem=f"field {column!r} is text but not JSON: {shorten(value)}",
                fix="write a list of tool schemas",
            ) from error
    if not value or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise wrong_type(value, column, "a list of tool schemas", where)
    check_unicode(json.dumps(value, ensure_ascii=False, default=str), column, where)
    return tuple(_schema(tool) for tool in value)


def tool_calls(value: Any, field: str, where: str) -> tuple[Calls, bool]:
    """The calls of a message, and whether arguments that were encoded twice had to be decoded once.

    ``{name, arguments}`` alone is put into the ``function`` of a call; arguments stay an object or JSON text.
    """
    value = listed(value)
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise wrong_type(value, field, "a list of tool calls", where)
    found = [_call(call, f"{field}[{index}]", where) for index, call in enumerate(value)]
    return [call for call, _ in found], any(twice for _, twice in found)


def calls_in_text(value: Any, role: str, field: str, where: str) -> tuple[Calls, bool]:
    """The calls of a turn that holds ``{"name": …, "arguments": …}``, or a list of such, as JSON text or as it is."""
    try:
        spoken = parsed(value) if isinstance(value, str) else value
    except ValueError:
        spoken = None
    spoken = spoken if isinstance(spoken, list) else [spoken]
    if not spoken or not all(map(_is_call, spoken)):
        raise RowError(
            where=where,
            reason=f"{role} turn",
            problem=f"field {field!r} of a {role} turn is {shorten(value)}; expected the JSON of a tool call",
            fix='write {"name": …, "arguments": {…}}, or leave such rows out with data.on_bad_row=drop',
        )
    return tool_calls(spoken, field, where)


def old_call(value: Any, field: str, where: str) -> tuple[Calls, bool]:
    """The call of a message's ``function_call`` key, as OpenAI wrote it before ``tool_calls``."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value.get("arguments") is None:
        raise RowError(
            where=where,
            reason="function_call key",
            problem=f"field {field!r} is the old spelling of a tool call; templates do not read it",
            fix='write "tool_calls": [{"type": "function", "function": {…}}] instead',
        )
    return tool_calls([value], field, where)


def _schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A bare function schema in the wrapping that servers expect and many templates read."""
    bare = isinstance(tool.get("name"), str) and isinstance(tool.get("parameters"), dict) and "function" not in tool
    if not bare or tool.get("type", "function") != "function":
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _is_call(value: Any) -> bool:
    """Whether a value has a name and arguments, or a ``function`` that has."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    return isinstance(inner, dict) and {"name", "arguments"} <= inner.keys()


def _call(call: Mapping[str, Any], field: str, where: str) -> tuple[dict[str, Any], bool]:
    """One call in the shape ``{type, function: {name, arguments}}``, and whether it was repaired."""
    if "function" not in call and "name" in call:
        rest = {key: value for key, value in call.items() if key not in ("name", "arguments")}
        function = {key: call[key] for key in ("name", "arguments") if key in call}
        call = {"type": "function", **rest, "function": function}
    function = call.get("function")
    if function is None:
        return dict(call), False
    if not isinstance(function, dict):
        raise wrong_type(function, f"{field}.function", "an object with name and arguments", where)
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowError(
            where=where,
            reason="tool call without a name",
            problem=f"field '{field}.function.name' is {shorten(function.get('name'))}; expected the name of a tool",
            fix="fill in the name or remove the row",
        )
    if function.get("arguments") is None:
        return dict(call), False
    arguments, twice = _arguments(function["arguments"], f"{field}.function.arguments", where)
    return {**call, "function": {**function, "arguments": arguments}}, twice


def _arguments(value: Any, field: str, where: str) -> tuple[Any, bool]:
    """An object, or JSON text of one. JSON text of JSON text (a second ``json.dumps``) is decoded until it is that."""
    given, layers, text = value, 0, value
    try:
        while isinstance(value, str):
            text, value = value, parsed(value)
            layers += 1
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RowError(
            where=where,
            reason="invalid tool arguments",
            problem=f"field {field!r} is {shorten(given)}; expected an object or the JSON text of one",
            fix="write {} for a call without arguments",
        )
    return (text if layers else value), layers > 1
