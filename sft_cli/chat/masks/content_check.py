"""Check that a text contains the content of a message, and that tool calls are written correctly."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.chat.masks.text_positions import LEVELS, Trace, unescape
from sft_cli.chat.template.chat_template import RenderError
from sft_cli.utils.text import json_or_none


def missing_content(message: Mapping[str, Any], rendered: str) -> str | None:
    """Return the first piece of a message that a text shows neither literally nor escaped; None if it shows all."""
    pieces = [piece.text for piece in Trace([message], None, LEVELS[0]).pieces if piece.kind != "constant"]
    return next((text for text in pieces if text not in rendered and text not in (unescape(rendered) or "")), None)


def check_tool_calls(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tool arguments that are JSON text, encoded as JSON once more: strings that no rendering may contain.

    Raises:
        RenderError: A call has no name, or its arguments are encoded twice.
    """
    functions = [tool_function(call) for message in messages for call in message.get("tool_calls") or ()]
    if any("name" not in function for function in functions):
        raise RenderError("a tool call has no name")
    texts = [text for function in functions if isinstance(text := function.get("arguments"), str)]
    if any(_encoded_twice(text) for text in texts):
        raise RenderError("its tool arguments are JSON text inside JSON text")
    return [json.dumps(text, ensure_ascii=False) for text in texts]


def arguments_as_python(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the argument objects of calls as ``str`` writes them, except those that occur literally in a message."""
    objects = [str(arguments) for arguments in _argument_objects(messages)]
    texts = [value for message in messages for value in message.values() if isinstance(value, str)] if objects else []
    return [arguments for arguments in objects if not any(arguments in text for text in texts)]


def _argument_objects(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the arguments of calls that are non-empty objects. Empty objects look the same in Python and JSON."""
    for message in messages:
        for call in message.get("tool_calls") or ():
            arguments = tool_function(call).get("arguments")
            if isinstance(arguments, Mapping) and arguments:
                yield arguments


def tool_function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a tool call that contains its name and arguments."""
    return call["function"] if "function" in call else {key: call[key] for key in ("name", "arguments") if key in call}


def _encoded_twice(arguments: str) -> bool:
    """Return whether a text is JSON of a string that is itself JSON of an object."""
    value = json_or_none(arguments)
    return isinstance(value, str) and isinstance(json_or_none(value), dict)
