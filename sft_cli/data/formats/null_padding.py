"""What Arrow leaves in schemas and calls: null for every key that another row has, and lists of pairs for maps.

A Parquet file, and what ``Dataset.to_json`` writes, gives every object of a column the same keys. Below ``properties``
of a tool schema a null is no schema, so it is padding; in the arguments of a call it is padding where the schema of the
tool has no argument of that name, and meant where it has.
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
"""Keywords of a JSON schema whose value may be null on purpose."""
DATA = (*MAYBE_NULL, "enum", "examples")
"""Keywords whose value is data, not a schema."""


def pairs_to_object(value: Any) -> Any:
    """The object behind a list of pairs with text as keys; anything else as it is."""
    if not isinstance(value, list | tuple) or not all(map(_is_pair, value)):
        return value
    found = dict(value)
    return found if value and len(found) == len(value) else value


def strip_padding(tools: Sequence[Mapping[str, Any]]) -> tuple[list[Any], bool]:
    """Tool schemas without the null entries that Arrow fills in, and whether there were any.

    Only nulls below ``properties`` show that a file is padded; where there are some, those elsewhere are padding too.
    """
    objects = [_pairs_to_objects(tool) for tool in tools]
    padded = any(_has_padding(tool, below=False) for tool in objects)
    return [_strip(tool) for tool in objects] if padded else objects, padded


def tool_properties(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The properties of the arguments of the tool of a name; None when no tool says what they are."""
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            found = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return found if isinstance(found, Mapping) else None
    return None


def has_null(arguments: Any) -> bool:
    """Whether an object of arguments holds a null under any key."""
    if isinstance(arguments, Mapping):
        return any(value is None or has_null(value) for value in arguments.values())
    return isinstance(arguments, list) and any(map(has_null, arguments))


def drop_padding(arguments: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that are null and have no schema, in nested objects and lists of such as well."""
    found = {}
    for key, value in arguments.items():
        if value is None and key not in properties:
            continue
        found[key] = _drop_padding_in(value, properties.get(key))
    return found


def _drop_padding_in(value: Any, schema: Any) -> Any:
    """One argument; only where its schema names properties is there anything to decide."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, Mapping) and isinstance(schema.get("properties"), Mapping):
        return drop_padding(value, schema["properties"])
    if isinstance(value, list):
        return [_drop_padding_in(entry, schema.get("items")) for entry in value]
    return value


def _pairs_to_objects(value: Any, key: str = "") -> Any:
    """A schema with objects for the lists of pairs that Arrow makes of maps."""
    if isinstance(value, list | tuple):
        found = pairs_to_object(value) if key in ("properties", "parameters") else value
        if isinstance(found, list | tuple):
            return [_pairs_to_objects(entry) for entry in found]
        value = found
    return (
        {name: _pairs_to_objects(entry, name) for name, entry in value.items()} if isinstance(value, Mapping) else value
    )


def _has_padding(value: Any, below: bool, names: bool = False) -> bool:
    """Whether a schema has a null below ``properties`` that no one writes on purpose.

    Args:
        value: The schema, or a part of it.
        below: Whether it is below ``properties``.
        names: Whether its keys are names of arguments, not keywords.
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
    """A schema without its nulls, except the defaults of arguments that may be null."""
    if isinstance(value, list):
        return [_strip(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for key, entry in value.items():
        if entry is None and (names or key not in MAYBE_NULL or not _allows_null(value)):
            continue
        data = key in DATA and not names
        found[key] = entry if data else _strip(entry, key == "properties" and not names)
    return found


def _allows_null(schema: Mapping[str, Any]) -> bool:
    """Whether null is a value of the schema."""
    kind = schema.get("type")
    either = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return (
        kind in (None, "null")
        or (isinstance(kind, list) and "null" in kind)
        or schema.get("nullable") is True
        or any(isinstance(one, Mapping) and one.get("type") == "null" for one in either)
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
        fix="add the tool to the row's tools, or write the arguments as JSON text; data.on_bad_row=drop leaves such "
        "rows out",
    )
