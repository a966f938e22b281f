"""Find the place from which a template reads the reasoning of an assistant message: a key, a part, or the content.

This is tested by rendering: a template reads reasoning from a place if it renders a message with reasoning there with
the reasoning once, before the answer. Some templates show reasoning only in messages that call tools.
"""

from collections.abc import Iterator
from typing import Any

from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.message_variants import IN_CONTENT, IN_PARTS

_QUESTION, _REASONING, _ANSWER = "What is it?", "Reasonable thought", "Plain answer"
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at it.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "What."}}},
    },
}


def reasoning_formats(template: ChatTemplate) -> tuple[str, ...]:
    """Return the places from which the template reads reasoning, the best first; empty if it reads none."""
    formats = [
        format
        for format in (*reasoning_blocks.REASONING_KEYS, IN_PARTS)
        if any(_shows_reasoning(template, *probe) for probe in _probes(format))
    ]
    return (*formats[:1], *([IN_CONTENT] if not formats and "</think>" in template.source else []))


def _probes(format: str) -> Iterator[tuple[dict[str, Any], list[Any] | None]]:
    """Yield assistant messages with reasoning in a format, and the tools they need."""
    if format == IN_PARTS:
        parts = [{"type": "thinking", "thinking": _REASONING}, {"type": "text", "text": _ANSWER}]
        yield {"role": "assistant", "content": parts}, None
        return
    yield {"role": "assistant", "content": _ANSWER, format: _REASONING}, None
    yield {"role": "assistant", "content": "", format: _REASONING, "tool_calls": [_CALL]}, [_TOOL]


def _shows_reasoning(template: ChatTemplate, message: dict[str, Any], tools: list[Any] | None) -> bool:
    """Return whether the reasoning of a message is rendered once, as text and before the answer."""
    try:
        text = template.render([{"role": "user", "content": _QUESTION}, message], tools, prompt=False)
    except RenderError:
        return False
    first = text.find(_REASONING)
    quoted = text[first - 1 : first] in ("'", '"')  # the template writes a list of parts as Python does
    return first >= 0 and text.count(_REASONING) == 1 and not quoted and not 0 <= text.find(_ANSWER) < first
