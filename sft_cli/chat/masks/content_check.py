"""What the tool calls of assistant messages hold, and whether a text shows what a message says."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.chat.masks.text_positions import LEVELS, Trace, unescaped
from sft_cli.chat.template.chat_template import TemplateRefusal


def unsaid(message: Mapping[str, Any], shown: str) -> str | None:
    """The first piece of a message that a text shows neither as it is nor escaped; None if it shows all."""
    pieces = [piece.text for piece in Trace([message], None, LEVELS[0]).pieces if piece.kind != "constant"]
    return next((text for text in pieces if text not in shown and text not in (unescaped(shown) or "")), None)


def check_calls(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tool arguments that are JSON text, as JSON text again: what no rendering may hold.

    Raises:
        TemplateRefusal: A call has no name, or its arguments are encoded twice.
    """
    functions = [function_of(call) for message in messages for call in message.get("tool_calls") or ()]
    if any("name" not in function for function in functions):
        raise TemplateRefusal("a tool call has no name")
    texts = [text for function in functions if isinstance(text := function.get("arguments"), str)]
    if any(_encoded_twice(text) for text in texts):
        raise TemplateRefusal("its tool arguments are JSON text inside JSON text")
    return [json.dumps(text, ensure_ascii=False) for text in texts]


def python_arguments(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The argument objects of calls as Python writes them, but those that a message says just so."""
    written = [str(arguments) for arguments in _argument_objects(messages)]
    said = [value for message in messages for value in message.values() if isinstance(value, str)] if written else []
    return [one for one in written if not any(one in text for text in said)]


def _argument_objects(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The arguments of calls that are objects, but empty ones: those are written alike."""
    for message in messages:
        for call in message.get("tool_calls") or ():
            arguments = function_of(call).get("arguments")
            if isinstance(arguments, Mapping) and arguments:
                yield arguments


def function_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a call that holds name and arguments."""
    return call["function"] if "function" in call else {key: call[key] for key in ("name", "arguments") if key in call}


def parsed(text: str) -> Any:
    """The JSON value of a text; None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _encoded_twice(arguments: str) -> bool:
    """Whether a text is JSON of a text that is JSON again."""
    value = parsed(arguments)
    return isinstance(value, str) and isinstance(parsed(value), dict)
