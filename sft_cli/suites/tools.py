"""Schemas of tools as chat templates expect them."""

from collections.abc import Mapping
from typing import Any

JSON_TYPES = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
    "any": "string",
}
"""Names of types in Python or Java -> those of JSON Schema."""


def tool_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool as ``{"type": "function", "function": …}``, with types of JSON Schema."""
    function = tool["function"] if tool.get("type") == "function" and "function" in tool else tool
    return {"type": "function", "function": _with_json_types(function)}


def _with_json_types(value: Any) -> Any:
    """Return a schema in which every ``type`` is one of JSON Schema."""
    if isinstance(value, Mapping):
        converted = {name: _with_json_types(entry) for name, entry in value.items()}
        if isinstance(kind := converted.get("type"), str):
            converted["type"] = JSON_TYPES.get(kind.lower(), kind.lower())
        return converted
    return [_with_json_types(entry) for entry in value] if isinstance(value, list) else value
