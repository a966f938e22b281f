"""Check tool calls against the accepted ones of the Berkeley Function Calling Leaderboard, without running anything.

An accepted call has, for each argument, a list of accepted values; ``""`` among them means that the argument may be
left out. Strings are compared in lower case without spaces and ``,./-_*^``. A whole number is accepted where a float is
declared, not the reverse. Calls may be in any order, elements of lists may not. Dots in names of functions equal
underscores, which OpenAI's API requires.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.scoring.tools.read_calls import ToolCall

TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "float": (float, int),
    "number": (float, int),
    "boolean": (bool,),
    "array": (list,),
    "tuple": (list,),
    "dict": (dict,),
    "object": (dict,),
    "null": (type(None),),
}
"""Declared type -> types of Python that are accepted; a bool is no integer."""
OMITTED = ""
"""Among the accepted values: the argument may be left out."""
_IGNORED = re.compile(r"[ ,./\-_*^]")

Accepted = Mapping[str, Mapping[str, Sequence[Any]]]
"""Name of a function -> argument -> accepted values; has one function."""


def check_calls(
    calls: Sequence[ToolCall], accepted: Sequence[Accepted], functions: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return why calls are wrong; None if each accepted call is matched by one of them and none is left.

    Args:
        calls: The calls of an answer.
        accepted: The accepted calls.
        functions: Descriptions of the functions: name and parameters, a JSON Schema with BFCL's names of types.
    """
    if len(calls) != len(accepted):
        return f"{len(calls)} call{'s' * (len(calls) != 1)}, expected {len(accepted)}"
    described = {function["name"]: function["parameters"] for function in functions}
    problems = [[compare_call(call, wanted, described) for call in calls] for wanted in accepted]
    matched: dict[int, int] = {}
    for wanted in range(len(accepted)):
        if not _match(wanted, problems, matched, set()):
            return next((problem for problem in problems[wanted] if problem), "a call is repeated")
    return None


def _match(wanted: int, problems: list[list[str | None]], matched: dict[int, int], seen: set[int]) -> bool:
    """Match one more accepted call with a call, moving others if need be (Kuhn's algorithm)."""
    for call, problem in enumerate(problems[wanted]):
        if problem is None and call not in seen:
            seen.add(call)
            if call not in matched or _match(matched[call], problems, matched, seen):
                matched[call] = wanted
                return True
    return False


def compare_call(call: ToolCall, accepted: Accepted, described: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return why a call is not an accepted one; None if it is."""
    ((name, values),) = accepted.items()
    if call.name.replace(".", "_") != name.replace(".", "_"):
        return f"calls {call.name}, expected {name}"
    schema = described.get(name, {})
    declared: Mapping[str, Any] = schema.get("properties") or {}
    for argument in schema.get("required") or ():
        if argument not in call.arguments:
            return f"{name}: the required argument {argument} is missing"
    for argument, value in call.arguments.items():
        if argument not in declared or argument not in values:
            return f"{name}: unexpected argument {argument}"
        if not _is_accepted(value, values[argument], declared[argument]):
            return f"{name}: {argument} is {value!r}"[:200]
    missing = [argument for argument, options in values.items() if argument not in call.arguments]
    wrong = next((argument for argument in missing if OMITTED not in values[argument]), None)
    return f"{name}: the argument {wrong} is missing" if wrong is not None else None


def _is_accepted(value: Any, options: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """Return whether a value is of the declared type, or of the type of an accepted value, and equals one of them."""
    value = _with_lists(value)
    kinds = TYPES.get(str(schema.get("type")))
    given = [option for option in options if option != OMITTED or isinstance(value, str)]
    for option in given:
        if isinstance(option, dict) and isinstance(value, dict):
            if _dict_is_accepted(value, option):
                return True
        elif (
            isinstance(option, list)
            and isinstance(value, list)
            and option
            and all(isinstance(part, dict) for part in option)
        ):
            if len(value) == len(option) and all(
                isinstance(part, dict) and _dict_is_accepted(part, wanted)
                for part, wanted in zip(value, option, strict=True)
            ):
                return True
        elif _equal(value, option) and (kinds is None or _is_of(value, kinds) or type(value) is type(option)):
            return True
    return False


def _dict_is_accepted(value: Mapping[str, Any], option: Mapping[str, Any]) -> bool:
    """Return whether a dict has only accepted values, each key of the accepted one having a list of them."""
    for key, part in value.items():
        if key not in option or not any(_equal(part, wanted) for wanted in _as_options(option[key])):
            return False
    return all(key in value or OMITTED in _as_options(option[key]) for key in option)


def _as_options(value: Any) -> Sequence[Any]:
    """Return the accepted values of a key; a bare value is the only one."""
    return value if isinstance(value, list) else [value]


def _equal(value: Any, option: Any) -> bool:
    """Return whether two values are equal: strings normalized, 2 equals 2.0, True does not equal 1."""
    if isinstance(value, str) and isinstance(option, str):
        return _plain(value) == _plain(option)
    if isinstance(value, list) and isinstance(option, list):
        return len(value) == len(option) and all(map(_equal, value, option))
    if isinstance(value, dict) and isinstance(option, dict):
        return value.keys() == option.keys() and all(_equal(value[key], option[key]) for key in value)
    if isinstance(value, bool) or isinstance(option, bool):
        return value is option
    if isinstance(option, int) and isinstance(value, float):
        return value == option and not isinstance(value, bool)
    return value == option


def _is_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a value is of one of the types."""
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def _plain(text: str) -> str:
    """Return a string for comparison."""
    return _IGNORED.sub("", text).lower().replace("'", '"')


def _with_lists(value: Any) -> Any:
    """Return a value with tuples and sets as lists."""
    return list(value) if isinstance(value, tuple | set) else value
