"""Normalize tool schemas and tool calls of several dialects to the shape that an OpenAI client sends."""

import json
from collections.abc import Mapping
from typing import Any

from sft_cli.data.formats.fields import Fields, check_unicode, parse_list, wrong_type
from sft_cli.data.formats.message_keys import check_part_keys
from sft_cli.data.formats.null_padding import PADDED, pairs_to_object, strip_padding
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.utils.text import parse_json

Calls = list[dict[str, Any]]

ENCODED_TWICE = "tool arguments encoded twice"
"""The note on a conversation whose tool arguments were JSON text inside JSON text."""
ARGUMENTS = ("arguments", "parameters", "args", "input")
"""Keys of the arguments of a call: OpenAI, Llama, LangChain, Anthropic."""
SCHEMAS = ("parameters", "input_schema", "inputSchema")
"""Keys of the argument schema of a tool: OpenAI, Anthropic, MCP."""


def parse_tool_schemas(fields: Fields, context: RowContext) -> tuple[Mapping[str, Any], ...] | None:
    """Return the ``tools`` (or the older ``functions``) of a row, given as objects or JSON text; None for none."""
    names = [name for name in ("tools", "functions") if fields.values.get(name) not in (None, "", "[]", [])]
    if not names:
        return None
    if len(names) > 1:
        raise RowError(
            where=context.where,
            reason="tools and functions",
            problem=f"fields {fields.columns['tools']!r} and {fields.columns['functions']!r} both hold tool schemas",
            fix="keep one of them",
        )
    column, value = fields.columns[names[0]], fields.values[names[0]]
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError as error:
            raise RowError(
                where=context.where,
                reason="invalid tools",
                problem=f"field {column!r} is text but not JSON: {short_repr(value)}",
                fix="write a list of tool schemas",
            ) from error
    if not value or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise wrong_type(value, column, "a list of tool schemas", context.where)
    json_text = json.dumps(value, ensure_ascii=False, default=str)
    check_unicode(json_text, column, context.where)
    tools = [_schema(tool) for tool in value]
    if "null" in json_text or "[[" in json_text:
        tools, padded = strip_padding(tools)
        if padded:
            context.remarks.add(PADDED)
    return tuple(tools)


def parse_tool_calls(value: Any, field: str, names: str, context: RowContext) -> Calls:
    """Return the calls of a message; a bare ``{name, arguments}`` becomes the ``function`` of a call.

    Arguments stay an object or JSON text; those that were encoded twice are decoded once, with a note.
    """
    value = parse_list(value)
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise wrong_type(value, field, "a list of tool calls", context.where)
    return [normalize_call(call, f"{field}[{index}]", f"{names}[]", context) for index, call in enumerate(value)]


def parse_call_text(value: Any, role: str, field: str, names: str, context: RowContext) -> Calls:
    """Return the calls of a turn that holds ``{"name": …, "arguments": …}`` or a list of them, parsed or as JSON text.

    Args:
        value: The content of the turn.
        role: Role of the turn, for errors.
        field: Its path, for errors.
        names: Its path, for notes.
        context: The row.
    """
    try:
        calls = parse_json(value) if isinstance(value, str) else value
    except ValueError:
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(map(_is_call, calls)):
        raise RowError(
            where=context.where,
            reason=f"{role} turn",
            problem=f"field {field!r} of a {role} turn is {short_repr(value)}; expected the JSON of a tool call",
            fix='write {"name": …, "arguments": {…}}',
        )
    return parse_tool_calls(calls, field, names, context)


def legacy_function_call(value: Any, field: str, names: str, context: RowContext) -> Calls:
    """Return the call of a message's ``function_call`` key, OpenAI's format before ``tool_calls``.

    Args:
        value: Value of the key.
        field: Its path, for errors.
        names: Its path, for notes.
        context: The row.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value.get("arguments") is None:
        raise RowError(
            where=context.where,
            reason="function_call key",
            problem=f"field {field!r} is an incomplete tool call in OpenAI's old format",
            fix='write "tool_calls": [{"type": "function", "function": {…}}] instead',
        )
    return [normalize_call(value, field, names, context)]


def normalize_call(call: Mapping[str, Any], field: str, names: str, context: RowContext) -> dict[str, Any]:
    """Return one call in the shape ``{id, type, function: {name, arguments}}``; without a function, unchanged.

    Args:
        call: The call.
        field: Its path, for errors.
        names: Its path, for notes.
        context: The row.
    """
    function, outside = call.get("function"), ("id", "type", "call_id", "function")
    if "function" not in call and "name" in call:
        inside = ("name", next((key for key in ARGUMENTS if call.get(key) is not None), "arguments"))
        function, outside = {key: call[key] for key in inside if key in call}, (*outside, *inside)
    if function is None:
        return dict(call)
    if not isinstance(function, dict):
        raise wrong_type(function, f"{field}.function", "an object with name and arguments", context.where)
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        raise RowError(
            where=context.where,
            reason="tool call without a name",
            problem=f"field '{field}.function.name' is {short_repr(function.get('name'))}; expected the name of a tool",
            fix="fill in the name or remove the row",
        )
    key = next((key for key in ARGUMENTS if function.get(key) is not None), None)
    check_part_keys(call, outside, field, names, context)
    check_part_keys(function, ("name", key or "arguments"), f"{field}.function", f"{names}.function", context)
    normalized: dict[str, Any] = {"name": function["name"]}
    if key is not None:
        normalized["arguments"] = _arguments(function[key], f"{field}.function.{key}", context)
    id = call.get("id") or call.get("call_id")
    kind = call.get("type") if "function" in call else "function"
    metadata = {"id": id, "type": kind}
    return {**{name: value for name, value in metadata.items() if value is not None}, "function": normalized}


def _schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a bare function schema wrapped as servers and templates expect it; any other schema unchanged."""
    key = next((key for key in SCHEMAS if isinstance(tool.get(key), dict | list)), None)
    bare = isinstance(tool.get("name"), str) and key is not None and "function" not in tool
    if not bare or (tool.get("type") or "function") not in ("function", "custom"):
        return tool
    function = {"parameters" if name == key else name: value for name, value in tool.items() if name != "type"}
    return {"type": "function", "function": function}


def _is_call(value: Any) -> bool:
    """Return whether a value has a name and arguments, itself or in its ``function``."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    return isinstance(inner, dict) and "name" in inner and any(key in inner for key in ARGUMENTS)


def _arguments(value: Any, field: str, context: RowContext) -> Any:
    """Return an object, or the JSON text of one; text that was encoded several times is decoded to one layer."""
    original, layers, text = value, 0, value
    try:
        while isinstance(value, str):
            text, value = value, parse_json(value)
            layers += 1
    except ValueError:
        value = None
    if not layers:
        value = {} if value == [] else pairs_to_object(value)  # an Arrow map without entries is an empty list
    if not isinstance(value, dict):
        raise RowError(
            where=context.where,
            reason="invalid tool arguments",
            problem=f"field {field!r} is {short_repr(original)}; expected an object or the JSON text of one",
            fix="write {} for a call without arguments",
        )
    if layers > 1:
        context.repairs.add(ENCODED_TWICE)
    return text if layers else value
