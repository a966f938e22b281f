"""Normalize conversations before rendering: apply the system message and reasoning rules of the data config."""

import re
from dataclasses import replace

from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import RenderError
from sft_cli.config.schema.data import DataConfig, Thinking, TrainOn
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message


def rule_errors(data: DataConfig) -> list[SftError]:
    """Return the errors in the message rules of a data config, which do not depend on the rows."""
    errors = []
    if data.override_system and data.system is None:
        errors.append(
            SftError(
                where="data.override_system=true",
                problem="data.system is not set: there is nothing to put in place of the system messages",
                fix="data.system=TEXT (data.system='' for none), or remove data.override_system",
            )
        )
    for i, pattern in enumerate(data.no_loss_patterns):
        try:
            useless = not pattern or re.compile(pattern) is None
            problem = "an empty regular expression excludes nothing from the loss" if useless else None
        except re.error as error:
            problem = f"{pattern!r} is not a regular expression: {error.msg} at position {error.pos}"
        if problem is not None:
            fix = r"write it as Python's re does, quoted in YAML: '<\|skip\|>.*?<\|/skip\|>'"
            errors.append(SftError(where=f"data.no_loss_patterns[{i}]", problem=problem, fix=fix))
    if data.train_on is TrainOn.all:
        without_effect = {
            "data.no_loss_patterns": bool(data.no_loss_patterns),
            "data.train_on_reasoning=false": not data.train_on_reasoning,
            "data.train_on_tool_calls=false": not data.train_on_tool_calls,
            "data.train_on_tool_results=true": data.train_on_tool_results,
        }
        errors += [
            SftError(
                where=name,
                problem="data.train_on=all trains the whole text, so that this has no effect",
                fix="remove it, or set data.train_on=assistant",
            )
            for name, is_set in without_effect.items()
            if is_set
        ]
    return errors


def normalize_conversation(conversation: Conversation, data: DataConfig) -> Conversation:
    """Apply the system message and reasoning rules to a conversation; applying them again changes nothing.

    Raises:
        RenderError: Nothing is left of a message, or its reasoning cannot be separated from its answer.
    """
    if not conversation.messages or (data.system is None and data.thinking is Thinking.keep):
        return conversation
    messages = _with_system(conversation.messages, data)
    if data.thinking is not Thinking.keep:
        num_stripped = _last_turn_start(messages) if data.thinking is Thinking.last else len(messages)
        messages = tuple(
            _strip_reasoning(message, i) if i < num_stripped else message for i, message in enumerate(messages)
        )
    return conversation if messages == conversation.messages else replace(conversation, messages=messages)


def _with_system(messages: tuple[Message, ...], data: DataConfig) -> tuple[Message, ...]:
    """Add the default system message, or replace all system messages by it."""
    if data.system is None:
        return messages
    others = tuple(message for message in messages if message.role != "system")
    if len(others) < len(messages) and not data.override_system:
        return messages
    return (Message("system", data.system), *others) if data.system else others


def _last_turn_start(messages: tuple[Message, ...]) -> int:
    """Return the index after the last user message that is answered; the turn may contain tool calls."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    questions = [i for i, message in enumerate(messages[: answers[-1]]) if message.role == "user"] if answers else []
    return questions[-1] + 1 if questions else 0


def _strip_reasoning(message: Message, i: int) -> Message:
    """Return an assistant message without its reasoning; other messages are unchanged."""
    if message.role != "assistant":
        return message
    if reasoning_blocks.has_unclosed_block(message.content):
        raise RenderError(f"message {i + 1} (assistant) opens <think> and never closes it: nothing is its answer")
    block = reasoning_blocks.find_block(message.content)
    extra = {key: value for key, value in message.extra.items() if key not in reasoning_blocks.REASONING_KEYS}
    if block is None and len(extra) == len(message.extra):
        return message
    content = message.content if block is None else message.content[block.answer :]
    if reasoning_blocks.has_unclosed_block(content):
        raise RenderError(f"message {i + 1} (assistant) opens a second <think> and never closes it")
    if not content.strip() and not extra.get("tool_calls"):
        raise RenderError(f"nothing but reasoning is in message {i + 1} (assistant)")
    return replace(message, content=content, extra=extra)
