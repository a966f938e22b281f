"""What Arrow leaves in schemas and calls: null for every key that another row has, and lists of pairs for maps.

A Parquet file, and what ``Dataset.to_json`` writes, gives every object of a column the same keys. Below ``properties``
of a tool schema a null is no schema, so it is padding; in the arguments of a call it is padding where the schema of the
tool has no argument of that name, and meant where it has.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAYBE_NULL = ("default", "const")
"""Keywords of a JSON schema whose value may be null on purpose."""


def as_object(value: Any) -> Any:
    """The object behind a list of pairs with text as keys; anything else as it is."""
    if not isinstance(value, list | tuple) or not all(map(_is_pair, value)):
        return value
    found = dict(value)
    return found if value and len(found) == len(value) else value


def without_padding(tools: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """Tool schemas without the null entries that Arrow fills in, and whether there were any."""
    counted = [0]
    cleaned = [_schema(tool, counted, MAYBE_NULL) for tool in tools]
    if counted[0]:  # the file is padded: so are nulls that a schema could hold on purpose, unless it allows null
        cleaned = [_schema(tool, counted, ()) for tool in cleaned]
    return cleaned, bool(counted[0])


def properties_of(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
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


def meant(arguments: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that are null and have no schema, in nested objects and lists of such as well."""
    found = {}
    for key, value in arguments.items():
        if value is None and key not in properties:
            continue
        found[key] = _meant_below(value, properties.get(key))
    return found


def _meant_below(value: Any, schema: Any) -> Any:
    """One argument; only where its schema names properties is there anything to decide."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, Mapping) and isinstance(schema.get("properties"), Mapping):
        return meant(value, schema["properties"])
    if isinstance(value, list):
        return [_meant_below(entry, schema.get("items")) for entry in value]
    return value


def _schema(value: Any, counted: list[int], kept: Sequence[str], inside: str = "") -> Any:
    """A schema without its null keywords, except those of ``kept`` and what allows null."""
    if isinstance(value, list | tuple):
        pairs = as_object(value) if inside in ("properties", "parameters") else value
        if isinstance(pairs, list | tuple):
            return [_schema(entry, counted, kept) for entry in pairs]
        value = pairs
    if not isinstance(value, Mapping):
        return value
    found = {}
    for key, entry in value.items():
        names = inside == "properties"  # the keys are names of arguments, not keywords
        if entry is None and (names or not (key in kept or (key in MAYBE_NULL and _allows_null(value)))):
            counted[0] += 1
        elif not names and key in (*MAYBE_NULL, "enum", "examples"):
            found[key] = entry  # data, not a schema
        else:
            found[key] = _schema(entry, counted, kept, "" if names else key)
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
