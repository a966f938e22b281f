"""Read tool calls from the text of an answer, in the forms that models write.

The forms: Python calls (``[f(a=1), g(b=2)]``), JSON objects with a name and arguments, ``{"f": {"a": 1}}``, and either
of them in code blocks or after the marks of chat templates (``<tool_call>``, ``[TOOL_CALLS]``, ``<|python_tag|>``,
``<function=f>``). An answer that tries to call but cannot be read is not an abstention.
"""

import ast
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sft_cli.utils.text import any_of, parse_json

LONGEST = 100_000
"""Characters of an answer from which it is not read."""
POSITIONAL = "(positional)"
"""Name given to arguments without one; no function has it."""
TAGGED = re.compile(
    r"<(?P<tag>tool_calls?|function_calls?|tools|functioncall)>\s*(?P<inside>.*?)\s*(?:</(?P=tag)>|\Z)"
    r"|<\|tool_call(?:_begin)?\|>(?P<piped>.*?)(?:<\|/?tool_call(?:_end)?\|>|\Z)"
    r"|(?:\[TOOL_CALLS\]|<\|python_tag\|>|functools(?=\[))(?P<rest>.*)\Z",
    re.DOTALL,
)
FUNCTION_TAG = re.compile(r"<function=(?P<name>[^<>\s]+)>(?P<inside>.*?)</function>", re.DOTALL)
PARAMETER_TAG = re.compile(r"<parameter=(?P<name>[^<>\s]+)>\s?(?P<value>.*?)\s?</parameter>", re.DOTALL)
FENCE = re.compile(r"```[ \t]*(?P<language>[\w+-]*)[ \t]*\n(?P<inside>.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
CALLING = re.compile(
    r"</?(?:tool_calls?|function_calls?|functioncall|tools)>|<\|/?tool_call|\[TOOL_CALLS\]|<\|python_tag\|>|<function="
    r"|\"(?:arguments|parameters|tool_calls|function_call)\"\s*:|\"name\"\s*:\s*\"[^\"]*\"\s*,|functools\["
)
"""Marks of an answer that tries to call a tool."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool: its name and arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReadCalls:
    """What an answer does.

    Attributes:
        kind: ``abstained``: it has no call; ``called``; ``unparsable``: it tries to call; ``empty``: it has no text.
        calls: The calls; empty unless it called.
    """

    kind: Literal["abstained", "called", "unparsable", "empty"]
    calls: tuple[ToolCall, ...] = ()


class _NotCalls(Exception):
    """A text that is no list of calls."""


def read_calls(text: str, names: Collection[str]) -> ReadCalls:
    """Return the calls of an answer.

    Args:
        text: The answer, without reasoning.
        names: Names of the tools that the model was given; a text that has one before a bracket tries to call.
    """
    if not text.strip():
        return ReadCalls("empty")
    if len(text) > LONGEST:
        return ReadCalls("unparsable" if CALLING.search(text) or _names_a_call(text, names) else "abstained")
    for candidates in (_tagged(text), _fenced(text), [text.strip()], _call_lines(text, names)):
        pieces = list(candidates)
        if not pieces:
            continue
        try:
            calls = tuple(call for piece in pieces for call in _parse(piece))
        except _NotCalls:
            continue
        return ReadCalls("called", calls) if calls else ReadCalls("abstained")
    tries = CALLING.search(text) or _names_a_call(text, names)
    return ReadCalls("unparsable" if tries else "abstained")


def calls_from_messages(tool_calls: Collection[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """Return structured calls, as chat templates and OpenAI's API have them; ``ValueError`` for other mappings."""
    try:
        return tuple(call for value in tool_calls for call in _from_json(dict(value)))
    except _NotCalls as error:
        raise ValueError(str(error)) from error


def _names_a_call(text: str, names: Collection[str]) -> bool:
    """Return whether a tool's name occurs before an opening bracket."""
    return re.search(rf"(?<![\w.])(?:{any_of(names)})\s?\(", text) is not None


def _tagged(text: str) -> Iterator[str | ToolCall]:
    """Yield what the tags of chat templates enclose."""
    functions = list(FUNCTION_TAG.finditer(text))
    if functions:
        yield from map(_function_tag, functions)
        return
    for match in TAGGED.finditer(text):
        yield next(inside for inside in (match["inside"], match["piped"], match["rest"]) if inside is not None)


def _function_tag(match: re.Match[str]) -> ToolCall | str:
    """Return the call of ``<function=f>``, whose arguments are JSON or tags; a text that is no call if they are not."""
    parameters = PARAMETER_TAG.findall(match["inside"])
    if parameters:
        return ToolCall(match["name"], {name: _json_or_text(value) for name, value in parameters})
    try:
        arguments = parse_json(match["inside"] or "{}")
    except ValueError:
        return match[0]
    return ToolCall(match["name"], arguments) if isinstance(arguments, dict) else match[0]


def _json_or_text(value: str) -> Any:
    """Return the JSON value of a text, or the text."""
    try:
        return parse_json(value)
    except ValueError:
        return value


def _fenced(text: str) -> list[str]:
    """Return the code blocks."""
    return [match["inside"] for match in FENCE.finditer(text)]


def _call_lines(text: str, names: Collection[str]) -> list[str]:
    """Return the lines of an answer with prose that are calls as a whole."""
    pattern = re.compile(rf"\[?\s*(?:{any_of(names)})\s?\(.*\)\s*\]?|\[?\{{.*\}}\]?")
    lines = [line.strip().strip("`") for line in text.splitlines()]
    return [line for line in lines if pattern.fullmatch(line)]


def _parse(piece: str | ToolCall) -> list[ToolCall]:
    """Return the calls of a text in JSON or Python."""
    if isinstance(piece, ToolCall):
        return [piece]
    plain = piece.strip()
    try:
        return _from_json(parse_json(plain))
    except ValueError:
        pass
    if plain.startswith("{") and (calls := _from_json_lines(plain)):
        return calls
    return _from_python(plain)


def _from_json_lines(text: str) -> list[ToolCall]:
    """Return the calls of JSON objects that follow each other, with white space, commas or semicolons between."""
    decoder, position, calls = json.JSONDecoder(), 0, []
    while position < len(text):
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return []
        calls += _from_json(value)
        position = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n,;"))
    return calls


def _from_json(value: Any) -> list[ToolCall]:
    """Return the calls of a JSON value."""
    if isinstance(value, list):
        return [call for part in value for call in _from_json(part)]
    if not isinstance(value, dict):
        raise _NotCalls("a call is an object")
    if isinstance(value.get("tool_calls"), list):
        return _from_json(value["tool_calls"])
    inner = value.get("function")
    if isinstance(inner, dict):
        value = inner
    name = next((value[key] for key in ("name", "function", "tool_name") if isinstance(value.get(key), str)), None)
    if name is None:
        if len(value) == 0 or not all(isinstance(arguments, dict) for arguments in value.values()):
            raise _NotCalls("the object names no function")
        return [ToolCall(str(key), arguments) for key, arguments in value.items()]
    arguments = next((value[key] for key in ("arguments", "parameters", "args", "input") if key in value), {})
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments or "{}")
        except ValueError as error:
            raise _NotCalls("the arguments are not JSON") from error
    if not isinstance(arguments, dict):
        raise _NotCalls("the arguments are no object")
    return [ToolCall(name, arguments)]


def _from_python(text: str) -> list[ToolCall]:
    """Return the calls of Python code that has nothing but calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in a string
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise _NotCalls("not Python") from error
    calls = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            raise _NotCalls("a statement")
        value = statement.value
        parts = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
        calls += [_python_call(part) for part in parts]
    return calls


def _python_call(node: ast.expr) -> ToolCall:
    """Return the call of an expression."""
    if not isinstance(node, ast.Call):
        raise _NotCalls("an expression that is no call")
    arguments: dict[str, Any] = {POSITIONAL: [_value(part) for part in node.args]} if node.args else {}
    for keyword in node.keywords:
        if keyword.arg is not None:
            arguments[keyword.arg] = _value(keyword.value)
        else:
            expanded = _value(keyword.value)
            arguments.update(expanded if isinstance(expanded, dict) else {POSITIONAL: expanded})
    return ToolCall(ast.unparse(node.func), arguments)


def _value(node: ast.expr) -> Any:
    """Return the value of a literal, with JSON's constants; the code of any other expression."""
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(part) for part in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key) if key is not None else None for key in node.keys]
        return {str(key): _value(value) for key, value in zip(keys, node.values, strict=True)}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return ast.unparse(node)
