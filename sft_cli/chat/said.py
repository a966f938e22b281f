"""What an assistant message says, tool calls among it, and whether the text of its answer shows it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.chat.template import TemplateRefusal
from sft_cli.chat.thinking import KEYS
from sft_cli.data.types import Message


def unsaid(message: Message, shown: str) -> str | None:
    """The first piece of an assistant message that the text of its answer does not show; None if it shows all."""
    wanted = message.content.strip()
    pieces = [piece.strip() for piece in re.split(r"</?think>", wanted)] if "</think>" in wanted else [wanted]
    pieces += [text for call in message.extra.get("tool_calls") or () for text in call_strings(call)]
    pieces += [text.strip() for key in KEYS if isinstance(text := message.extra.get(key), str)]
    return next((piece for piece in pieces if piece not in shown), None)


def check_arguments(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tool arguments that are JSON text, as JSON text again: what no rendering may hold.

    Raises:
        TemplateRefusal: The data encode arguments twice.
    """
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    texts = [text for call in calls if isinstance(text := function_of(call).get("arguments"), str)]
    if any(_encoded_twice(text) for text in texts):
        raise TemplateRefusal("its tool arguments are JSON text inside JSON text")
    return [json.dumps(text, ensure_ascii=False) for text in texts]


def call_strings(call: Mapping[str, Any]) -> Iterator[str]:
    """What must be seen of a tool call: its name and its arguments, of an object the names and the texts."""
    function = function_of(call)
    if "name" not in function:
        raise TemplateRefusal("a tool call has no name")
    yield function["name"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        yield arguments.strip()
    elif isinstance(arguments, Mapping):
        yield from arguments


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
