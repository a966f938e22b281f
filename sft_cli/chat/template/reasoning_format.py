"""Where a template reads the reasoning of an assistant message: under which key, as a content part, or in the content.

It is tried out: a template reads reasoning from a place if a message that has it there is rendered with the reasoning
once, before the answer. Some templates show reasoning only of messages that call tools.
"""

from collections.abc import Iterator
from typing import Any

from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import ChatTemplate, TemplateRefusal
from sft_cli.chat.template.message_variants import IN_CONTENT, PARTS

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


def reasoning_places(template: ChatTemplate) -> tuple[str, ...]:
    """Where the template reads reasoning, the best first; empty for a template without a format for it."""
    shown = [
        place for place in (*reasoning_blocks.KEYS, PARTS) if any(_shows(template, *probe) for probe in _probes(place))
    ]
    return (*shown[:1], *([IN_CONTENT] if not shown and "</think>" in template.source else []))


def _probes(place: str) -> Iterator[tuple[dict[str, Any], list[Any] | None]]:
    """Assistant messages with reasoning in a place, and the tools they need."""
    if place == PARTS:
        parts = [{"type": "thinking", "thinking": _REASONING}, {"type": "text", "text": _ANSWER}]
        yield {"role": "assistant", "content": parts}, None
        return
    yield {"role": "assistant", "content": _ANSWER, place: _REASONING}, None
    yield {"role": "assistant", "content": "", place: _REASONING, "tool_calls": [_CALL]}, [_TOOL]


def _shows(template: ChatTemplate, message: dict[str, Any], tools: list[Any] | None) -> bool:
    """Whether the reasoning of a message is rendered once, as text and before the answer."""
    try:
        text = template.render([{"role": "user", "content": _QUESTION}, message], tools, prompt=False)
    except TemplateRefusal:
        return False
    first = text.find(_REASONING)
    quoted = text[first - 1 : first] in ("'", '"')  # a list of parts, written as it is
    return first >= 0 and text.count(_REASONING) == 1 and not quoted and not 0 <= text.find(_ANSWER) < first
