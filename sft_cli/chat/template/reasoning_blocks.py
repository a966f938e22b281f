"""The reasoning of an assistant message: ``<think>…</think>`` in its content, or a key beside it.

Some templates write the beginning of a reasoning block into the prompt, or an empty one, and leave it out of turns that
are over. Such a turn is trained as it is served: the prompt as the server sends it, then what the model has to write.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_cli.chat.template.chat_template import TemplateRefusal

KEYS = ("reasoning_content", "reasoning", "thinking", "tool_plan")
"""Keys under which messages carry the reasoning before an answer."""
_BLOCK = re.compile(r"\s*<think>(.*?)</think>(?:[ \t]*\n+|[ \t]*)", re.DOTALL)
_CLOSED = re.compile(r"(.*?)\n[ \t]*</think>[ \t]*(?:\n+|\Z)", re.DOTALL)
_PROMPT_BLOCK = re.compile(
    r"(?:<think>|<\|START_THINKING\|>|<\|channel>thought|(?=</think>))\s*"
    r"(</think>\s*|<\|END_THINKING\|>|<channel\|>)?\Z"
)
_EMPTY = re.compile(r"<think>\s*</think>")
_REASONED = re.compile(r"<think>\s*(?!\s|</think>)")


class Block(NamedTuple):
    """Where a content holds its reasoning: characters ``start`` to ``end``; the answer begins at ``answer``."""

    start: int
    end: int
    answer: int


def block(content: str) -> Block | None:
    """The reasoning block that a content begins with; None if it has none.

    ``</think>`` on a line of its own closes a block whose opening was part of the prompt.
    """
    if "</think>" not in content:
        return None
    match = _BLOCK.match(content)
    if match is None and "<think>" not in content:
        match = _CLOSED.match(content)
    return Block(match.start(1), match.end(1), match.end()) if match else None


def empty_block(text: str, start: int, end: int) -> bool:
    """Whether the characters ``start`` to ``end`` of a text begin with an empty reasoning block."""
    return text.startswith("<think>", start) and _EMPTY.match(text, start, end) is not None


def unclosed(content: str) -> bool:
    """Whether a content opens a reasoning block and never closes it."""
    return content.lstrip().startswith("<think>") and "</think>" not in content


def texts(message: Mapping[str, Any]) -> list[str]:
    """The reasoning of a message as templates read it: of its content, and of the keys beside it."""
    found, content = [text.strip() for key in KEYS if isinstance(text := message.get(key), str)], message["content"]
    if isinstance(content, list):
        found += [part["thinking"].strip() for part in content if part["type"] == "thinking"]
    elif inside := block(content):
        found.append(content[inside.start : inside.end].strip())
    return [text for text in found if text]


def served(prompt: str, text: str, message: Mapping[str, Any], number: int) -> str | None:
    """The prompt with the answer behind it where the template leaves the prompt's reasoning block out of ``text``.

    Args:
        prompt: What a server sends before the message.
        text: The rendering up to and with the message.
        message: The assistant message as the template read it.
        number: Its number from 1, for errors.

    Returns:
        None if the prompt ends in no reasoning block, or ``text`` does not begin with what stands before that.

    Raises:
        TemplateRefusal: The message reasons behind a closed block, or does not behind an open one.
    """
    opened = _PROMPT_BLOCK.search(prompt)
    if opened is None or not text.startswith(prompt[: opened.start()]):
        return None
    answer, content = text[opened.start() :], message["content"]
    if opened.group(1):
        check_closed(prompt, message, number)
        return prompt + answer
    if not texts(message):
        raise _opened(number)
    own = _REASONED.match(answer)
    if own is not None and prompt[opened.start() :].startswith("<think>"):
        return prompt + (answer[own.end() :] if prompt[-1].isspace() else answer[len("<think>") :])
    found = block(content) if isinstance(content, str) else None
    if found is None:
        return None
    thought = content[found.start : found.end]
    closed = content.index("</think>", found.end)
    gap, rest = content[closed + len("</think>") : found.answer], _EMPTY.sub("", answer, count=1)
    if not _EMPTY.match(answer):
        rest = answer
    thought = thought.lstrip() if prompt[-1].isspace() else thought
    between = content[found.end : closed]
    return f"{prompt}{thought}{between}</think>{'' if rest[:1].isspace() else gap}{rest}"


def _opened(number: int) -> TemplateRefusal:
    """The refusal of a message without reasoning after a prompt that opens it."""
    return TemplateRefusal(
        f"the prompt opens the reasoning of message {number} (assistant), which has none"
        " (a variable of the template may close it, such as template.variables={enable_thinking: false})"
    )


def check_opened(prompt: str, answer: str, reasons: bool, number: int) -> None:
    """Refuse an answer that is all inside a reasoning block which the prompt opens."""
    if prompt.rstrip().endswith("<think>") and "</think>" not in answer and not reasons:
        raise _opened(number)


def check_closed(prompt: str, message: Mapping[str, Any], number: int) -> None:
    """Refuse a message that reasons after a prompt that has closed the reasoning."""
    opened = _PROMPT_BLOCK.search(prompt)
    if opened is not None and opened.group(1) and texts(message):
        raise TemplateRefusal(
            f"the prompt closes the reasoning before message {number} (assistant), which reasons"
            " (data.thinking=strip leaves that out; a variable of the template may open it, such as"
            " template.variables={enable_thinking: true})"
        )
