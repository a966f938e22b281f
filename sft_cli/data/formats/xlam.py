"""Convert xLAM rows: a query, the calls that answer it and the tools, as JSON text with Python's type names."""

import re
from collections.abc import Mapping
from typing import Any

from sft_cli.data.formats.fields import Fields, FormatOptions, parse_list
from sft_cli.data.formats.messages import build_conversation
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.formats.tool_calls import parse_call_text
from sft_cli.data.row_errors import RowError
from sft_cli.types import Conversation, Message

TYPES = {
    "str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number", "number": "number",
    "bool": "boolean", "boolean": "boolean", "list": "array", "array": "array", "tuple": "array", "set": "array",
    "dict": "object", "object": "object",
}  # fmt: skip
"""Python types -> JSON schema types."""
_TYPE = re.compile(r"\s*(?:Optional\[)?\s*([A-Za-z]+)")


def from_xlam(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversation of ``{query, answers, tools}``: the question, and the calls that answer it."""
    context = RowContext.from_fields(fields, options)
    column, value = fields.columns["answers"], fields.values["answers"]
    if parse_list(value) in (None, "", []):
        raise RowError(
            where=context.where,
            reason="empty answer",
            problem=f"field {column!r} has no call; there is nothing to train on",
            fix="add the answer or remove the row",
        )
    calls = parse_call_text(value, "tool_call", column, f"{column}[]", context)
    messages = [Message("user", fields.text("query")), Message("assistant", "", extra={"tool_calls": calls})]
    tools = parse_list(fields.values["tools"])
    if isinstance(tools, list):
        tools = [_tool(tool) for tool in tools]
    fields = Fields({**fields.values, "tools": tools}, fields.columns, fields.row)
    return (build_conversation(fields, messages, context),)


def _tool(tool: Any) -> Any:
    """Return a tool with a JSON schema as its parameters; any other value unchanged."""
    parameters = tool.get("parameters") if isinstance(tool, Mapping) else None
    if not isinstance(parameters, Mapping) or "properties" in parameters or parameters.get("type") == "object":
        return tool
    if not all(isinstance(argument, Mapping) for argument in parameters.values()):
        return tool
    properties = {name: {**argument, **_type(argument.get("type"))} for name, argument in parameters.items()}
    required = [name for name, argument in parameters.items() if not _optional(argument)]
    schema = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    return {**tool, "parameters": schema}


def _type(type_name: Any) -> dict[str, str]:
    """Return the JSON schema type of an argument; empty if it is unknown."""
    match = _TYPE.match(type_name) if isinstance(type_name, str) else None
    known = TYPES.get(match.group(1).lower()) if match else None
    return {"type": known} if known else {}


def _optional(argument: Mapping[str, Any]) -> bool:
    """Return whether a call may omit the argument."""
    type_name = argument.get("type")
    return "default" in argument or (isinstance(type_name, str) and "optional" in type_name.lower())
