"""What a conversation holds before any template sees it: its system message and the reasoning of its answers."""

import re
from dataclasses import replace

from sft_cli.chat.template import reasoning_blocks
from sft_cli.chat.template.chat_template import TemplateRefusal
from sft_cli.config.schema.data import DataConfig, Thinking, TrainOn
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message


def mistakes(data: DataConfig) -> list[SftError]:
    """What is wrong with the rules about messages, whatever the rows are."""
    found = []
    if data.override_system and data.system is None:
        found.append(
            SftError(
                where="data.override_system=true",
                problem="data.system is not set: there is nothing to put in place of the system messages",
                fix="set data.system to the text (or to '' for none), or leave data.override_system out",
            )
        )
    for i, pattern in enumerate(data.no_loss_patterns):
        try:
            useless = not pattern or re.compile(pattern) is None
            problem = "an empty regular expression mutes nothing" if useless else None
        except re.error as error:
            problem = f"{pattern!r} is not a regular expression: {error.msg} at position {error.pos}"
        if problem is not None:
            fix = r"write it as Python's re does, quoted in YAML: '<\|skip\|>.*?<\|/skip\|>'"
            found.append(SftError(where=f"data.no_loss_patterns[{i}]", problem=problem, fix=fix))
    if data.train_on is TrainOn.all:
        idle = {
            "data.no_loss_patterns": bool(data.no_loss_patterns),
            "data.train_on_reasoning=false": not data.train_on_reasoning,
            "data.train_on_tool_calls=false": not data.train_on_tool_calls,
            "data.train_on_tool_results=true": data.train_on_tool_results,
        }
        found += [
            SftError(
                where=name,
                problem="data.train_on=all trains the whole text, so that this has no effect",
                fix="leave it out, or set data.train_on=assistant",
            )
            for name, given in idle.items()
            if given
        ]
    return found


def shaped(conversation: Conversation, data: DataConfig) -> Conversation:
    """The conversation with the system message and the reasoning that the rules ask for; twice is as good as once.

    Raises:
        TemplateRefusal: Nothing is left of a message, or its reasoning cannot be told from its answer.
    """
    if not conversation.messages or (data.system is None and data.thinking is Thinking.keep):
        return conversation
    messages = _with_system(conversation.messages, data)
    if data.thinking is not Thinking.keep:
        kept = _last_turn(messages) if data.thinking is Thinking.last else len(messages)
        messages = tuple(_stripped(message, i) if i < kept else message for i, message in enumerate(messages))
    return conversation if messages == conversation.messages else replace(conversation, messages=messages)


def _with_system(messages: tuple[Message, ...], data: DataConfig) -> tuple[Message, ...]:
    """The messages with the default system message, or with it in place of all there are."""
    if data.system is None:
        return messages
    others = tuple(message for message in messages if message.role != "system")
    if len(others) < len(messages) and not data.override_system:
        return messages
    return (Message("system", data.system), *others) if data.system else others


def _last_turn(messages: tuple[Message, ...]) -> int:
    """Where the last turn begins: behind the last user message that is answered (a turn may call tools on its way)."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    asked = [i for i, message in enumerate(messages[: answers[-1]]) if message.role == "user"] if answers else []
    return asked[-1] + 1 if asked else 0


def _stripped(message: Message, i: int) -> Message:
    """An assistant message without its reasoning; other messages as they are."""
    if message.role != "assistant":
        return message
    if reasoning_blocks.unclosed(message.content):
        raise TemplateRefusal(f"message {i + 1} (assistant) opens <think> and never closes it: nothing is its answer")
    block = reasoning_blocks.block(message.content)
    extra = {key: value for key, value in message.extra.items() if key not in reasoning_blocks.KEYS}
    if block is None and len(extra) == len(message.extra):
        return message
    content = message.content if block is None else message.content[block.answer :]
    if reasoning_blocks.unclosed(content):
        raise TemplateRefusal(f"message {i + 1} (assistant) opens a second <think> and never closes it")
    if not content.strip() and not extra.get("tool_calls"):
        raise TemplateRefusal(f"nothing but reasoning is in message {i + 1} (assistant)")
    return replace(message, content=content, extra=extra)
