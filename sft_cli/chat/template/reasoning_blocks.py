"""The reasoning of an assistant message: ``<think>…</think>`` in its content, or a separate key.

Some templates write the beginning of a reasoning block, or an empty block, into the prompt, and remove it from
completed turns. Such a turn is trained as it is served: the prompt that the server sends, then the model's output.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sft_cli.chat.template.chat_template import RenderError

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "tool_plan")
"""Keys of a message that contain the reasoning before an answer."""
_BLOCK = re.compile(r"\s*<think>(.*?)</think>(?:[ \t]*\n+|[ \t]*)", re.DOTALL)
_CLOSED = re.compile(r"(.*?)\n[ \t]*</think>[ \t]*(?:\n+|\Z)", re.DOTALL)
_PROMPT_BLOCK = re.compile(
    r"(?:<think>|<\|START_THINKING\|>|<\|channel>thought|(?=</think>))\s*"
    r"(</think>\s*|<\|END_THINKING\|>|<channel\|>)?\Z"
)
_EMPTY = re.compile(r"<think>\s*</think>")
_NONEMPTY = re.compile(r"<think>\s*(?!\s|</think>)")


class ReasoningBlock(NamedTuple):
    """The reasoning in a content: characters ``start`` to ``end``; the answer begins at ``answer``."""

    start: int
    end: int
    answer: int


def find_block(content: str) -> ReasoningBlock | None:
    """Return the reasoning block that a content begins with; None if it has none.

    ``</think>`` on a separate line closes a block whose opening was part of the prompt.
    """
    if "</think>" not in content:
        return None
    match = _BLOCK.match(content)
    if match is None and "<think>" not in content:
        match = _CLOSED.match(content)
    return ReasoningBlock(match.start(1), match.end(1), match.end()) if match else None


def empty_block(text: str, start: int, end: int) -> bool:
    """Return whether the characters ``start`` to ``end`` of a text begin with an empty reasoning block."""
    return text.startswith("<think>", start) and _EMPTY.match(text, start, end) is not None


def has_unclosed_block(content: str) -> bool:
    """Return whether a content opens a reasoning block and never closes it."""
    return content.lstrip().startswith("<think>") and "</think>" not in content


def reasoning_texts(message: Mapping[str, Any]) -> list[str]:
    """Return the reasoning of a message as templates read it, from its content and its reasoning keys."""
    texts, content = (
        [text.strip() for key in REASONING_KEYS if isinstance(text := message.get(key), str)],
        message["content"],
    )
    if isinstance(content, list):
        texts += [part["thinking"].strip() for part in content if part["type"] == "thinking"]
    elif inside := find_block(content):
        texts.append(content[inside.start : inside.end].strip())
    return [text for text in texts if text]


def serving_text(prompt: str, text: str, message: Mapping[str, Any], number: int) -> str | None:
    """Return the prompt followed by the answer, if the template leaves the prompt's reasoning block out of ``text``.

    Args:
        prompt: The prompt that a server sends before the message.
        text: The rendering up to and including the message.
        message: The assistant message as the template read it.
        number: Its number from 1, for errors.

    Returns:
        None if the prompt does not end in a reasoning block, or ``text`` does not begin with the prompt before that.

    Raises:
        RenderError: The message has reasoning after a closed block, or none after an open one.
    """
    prompt_block = _PROMPT_BLOCK.search(prompt)
    if prompt_block is None or not text.startswith(prompt[: prompt_block.start()]):
        return None
    answer, content = text[prompt_block.start() :], message["content"]
    if prompt_block.group(1):
        check_closed(prompt, message, number)
        return prompt + answer
    if not reasoning_texts(message):
        raise _open_block_error(number)
    own_opening = _NONEMPTY.match(answer)
    if own_opening is not None and prompt[prompt_block.start() :].startswith("<think>"):
        return prompt + (answer[own_opening.end() :] if prompt[-1].isspace() else answer[len("<think>") :])
    block = find_block(content) if isinstance(content, str) else None
    if block is None:
        return None
    reasoning = content[block.start : block.end]
    closed = content.index("</think>", block.end)
    gap, rest = content[closed + len("</think>") : block.answer], _EMPTY.sub("", answer, count=1)
    if not _EMPTY.match(answer):
        rest = answer
    reasoning = reasoning.lstrip() if prompt[-1].isspace() else reasoning
    between = content[block.end : closed]
    return f"{prompt}{reasoning}{between}</think>{'' if rest[:1].isspace() else gap}{rest}"


def _open_block_error(number: int) -> RenderError:
    """Return the error for a message without reasoning after a prompt that opens it."""
    return RenderError(
        f"the prompt opens the reasoning of message {number} (assistant), which has none"
        " (a variable of the template may close it, such as template.variables={enable_thinking: false})"
    )


def check_opened(prompt: str, answer: str, has_reasoning: bool, number: int) -> None:
    """Reject an answer that is entirely inside a reasoning block which the prompt opens.

    Args:
        prompt: The prompt that a server sends before the message.
        answer: The text after the prompt.
        has_reasoning: Whether the message has reasoning.
        number: Its number from 1, for errors.
    """
    if prompt.rstrip().endswith("<think>") and "</think>" not in answer and not has_reasoning:
        raise _open_block_error(number)


def check_closed(prompt: str, message: Mapping[str, Any], number: int) -> None:
    """Reject a message with reasoning after a prompt that has closed the reasoning."""
    opened = _PROMPT_BLOCK.search(prompt)
    if opened is not None and opened.group(1) and reasoning_texts(message):
        raise RenderError(
            f"the prompt closes the reasoning before message {number} (assistant), which reasons"
            " (data.thinking=strip leaves that out; a variable of the template may open it, such as"
            " template.variables={enable_thinking: true})"
        )
