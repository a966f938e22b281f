"""Remove the padding that Arrow leaves in tool schemas and calls: nulls for the keys of other rows, pairs for maps.

A Parquet file, and the output of ``Dataset.to_json``, gives every object of a column the same keys. Below
``properties`` of a tool schema a null is not a schema, so it is padding. In the arguments of a call a null is padding
if the tool's schema has no argument of that name, and a value if it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError, format_list
from sft_cli.types import Message

PADDED = "padding"
"""The remark about a conversation whose schemas or calls had the null entries that Arrow fills in."""
MAYBE_NULL = ("default", "const")
"""Keywords of a JSON schema whose value may be null."""
DATA = (*MAYBE_NULL, "enum", "examples")
"""Keywords whose value is data, not a schema."""


def pairs_to_object(value: Any) -> Any:
    """Return the object of a list of pairs whose keys are text; any other value unchanged."""
    if not isinstance(value, list | tuple) or not all(map(_is_pair, value)):
        return value
    pairs = dict(value)
    return pairs if value and len(pairs) == len(value) else value


def strip_padding(tools: Sequence[Mapping[str, Any]]) -> tuple[list[Any], bool]:
    """Return tool schemas without the null entries that Arrow adds, and whether there were any.

    Only nulls below ``properties`` prove that a file is padded; if there are any, nulls elsewhere are padding too.
    """
    objects = [_pairs_to_objects(tool) for tool in tools]
    padded = any(_has_padding(tool, below=False) for tool in objects)
    return [_strip(tool) for tool in objects] if padded else objects, padded


def tool_properties(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """Return the properties of the arguments of a tool; None when no schema gives them."""
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else None
    return None


def has_null(arguments: Any) -> bool:
    """Return whether arguments hold a null at any depth."""
    if isinstance(arguments, Mapping):
        return any(value is None or has_null(value) for value in arguments.values())
    return isinstance(arguments, list) and any(map(has_null, arguments))


def drop_padding(arguments: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments without those that are null and have no schema, also in nested objects and lists."""
    kept = {}
    for key, value in arguments.items():
        if value is None and key not in properties:
            continue
        kept[key] = _drop_padding_in(value, properties.get(key))
    return kept


def _drop_padding_in(value: Any, schema: Any) -> Any:
    """Return one argument without padding; only a schema with properties can identify padding."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, Mapping) and isinstance(schema.get("properties"), Mapping):
        return drop_padding(value, schema["properties"])
    if isinstance(value, list):
        return [_drop_padding_in(entry, schema.get("items")) for entry in value]
    return value


def _pairs_to_objects(value: Any, key: str = "") -> Any:
    """Return a schema with objects in place of the lists of pairs that Arrow makes of maps."""
    if isinstance(value, list | tuple):
        converted = pairs_to_object(value) if key in ("properties", "parameters") else value
        if isinstance(converted, list | tuple):
            return [_pairs_to_objects(entry) for entry in converted]
        value = converted
    return (
        {name: _pairs_to_objects(entry, name) for name, entry in value.items()} if isinstance(value, Mapping) else value
    )


def _has_padding(value: Any, below: bool, names: bool = False) -> bool:
    """Return whether a schema has a null below ``properties`` that is not a value.

    Args:
        value: The schema, or a part of it.
        below: Whether it is below ``properties``.
        names: Whether its keys are argument names, not keywords.
    """
    if isinstance(value, list):
        return any(_has_padding(entry, below) for entry in value)
    if not isinstance(value, Mapping):
        return False
    for key, entry in value.items():
        if entry is None:
            if below and (names or key not in MAYBE_NULL):
                return True
        elif names or key not in DATA:
            properties = key == "properties" and not names
            if _has_padding(entry, below or properties, properties):
                return True
    return False


def _strip(value: Any, names: bool = False) -> Any:
    """Return a schema without its nulls, except the null defaults of nullable arguments."""
    if isinstance(value, list):
        return [_strip(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, entry in value.items():
        if entry is None and (names or key not in MAYBE_NULL or not _allows_null(value)):
            continue
        is_data = key in DATA and not names
        kept[key] = entry if is_data else _strip(entry, key == "properties" and not names)
    return kept


def _allows_null(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema accepts null."""
    kind = schema.get("type")
    alternatives = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return (
        kind in (None, "null")
        or (isinstance(kind, list) and "null" in kind)
        or schema.get("nullable") is True
        or any(isinstance(alternative, Mapping) and alternative.get("type") == "null" for alternative in alternatives)
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)


def drop_null_arguments(message: Message, tools: tuple[Mapping[str, Any], ...], context: RowContext) -> Message:
    """Return a message without the null arguments that Arrow adds to its tool calls.

    Raises:
        RowError: The tool of a call has no schema, so a null may be meant.
    """
    calls = message.extra.get("tool_calls")
    if not calls or not any(has_null(_arguments_of(call)) for call in calls):
        return message
    made = []
    for call in calls:
        arguments = _arguments_of(call)
        if isinstance(arguments, Mapping) and has_null(arguments):
            properties = tool_properties(tools, call["function"]["name"])
            if properties is None and any(value is None for value in arguments.values()):
                raise _ambiguous_null(call, context)
            kept = drop_padding(arguments, properties or {})
            if kept != arguments:
                context.remarks.add(PADDED)
            call = {**call, "function": {**call["function"], "arguments": kept}}
        made.append(call)
    return replace(message, extra={**message.extra, "tool_calls": made})


def _arguments_of(call: Mapping[str, Any]) -> Any:
    return call["function"].get("arguments") if isinstance(call.get("function"), Mapping) else None


def _ambiguous_null(call: Mapping[str, Any], context: RowContext) -> RowError:
    """The error of a call with null arguments whose tool has no schema."""
    function = call["function"]
    empty = [key for key, value in function["arguments"].items() if value is None]
    return RowError(
        where=context.where,
        reason="null arguments without a schema",
        problem=f"the call of {function['name']} has null for {format_list(empty)}, and the row has no schema of the "
        "tool: it may be meant, or padding of a Parquet file",
        fix="add the tool to the row's tools, or write the arguments as JSON text",
    )
