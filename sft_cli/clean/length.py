"""Bounds on the length of prompt and answer, and on the share of the text that is trained; before any tokenizer."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sft_cli.clean.base import Finding, Found, Rows, answer, prompt
from sft_cli.config.schema.clean import LengthConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation, Message

WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""What white space separates; Chinese and Japanese characters count one each."""


class Verdict(NamedTuple):
    """Why a row is dropped, the sentence about it, and the number that is out of bounds."""

    reason: str
    detail: str
    value: float


def check(config: LengthConfig) -> None:
    """Refuse bounds that no row can meet, or that every row meets."""
    if config == LengthConfig(min_answer_words=0):
        raise SftError(
            where="clean.length",
            problem="no bound is set, so no row would be left out",
            fix="set one, such as clean.length.min_answer_words=1, or take length out of clean.steps",
        )
    pairs = [
        ("min_prompt_words", config.min_prompt_words, "max_prompt_words", config.max_prompt_words),
        ("min_answer_words", config.min_answer_words, "max_answer_words", config.max_answer_words),
        ("min_trained_share", config.min_trained_share, "max_trained_share", config.max_trained_share),
    ]
    raise_all(
        [
            SftError(
                where=f"clean.length.{low}",
                problem=f"{low} is {least} and {high} is {most}: no row could stay",
                fix=f"make {high} at least {low}",
            )
            for low, least, high, most in pairs
            if most is not None and least > most
        ]
    )


def find(rows: Rows, config: LengthConfig) -> Finding:
    """A finding for each row that is out of bounds.

    Documents and rows of token ids have neither prompt nor answer and pass. The report: ``reasons`` (reason -> rows)
    and ``not_judged`` rows.
    """
    check(config)
    return _find(rows, config)


def _find(rows: Rows, config: LengthConfig) -> Finding:
    """See ``find``."""
    reasons, not_judged = Counter[str](), 0
    for start, batch in rows.map(judge, config):
        for index, (judged, verdict) in enumerate(batch, start):
            not_judged += not judged
            if verdict is not None:
                reasons[verdict.reason] += 1
                yield Found(index, verdict.reason, verdict.detail, verdict.value)
    return {"reasons": dict(sorted(reasons.items())), "not_judged": not_judged}


def judge(conversations: Sequence[Conversation], config: LengthConfig) -> list[tuple[bool, Verdict | None]]:
    """For each conversation whether it has bounds to meet, and what it fails."""
    return [(bool(c.messages), _judge(c, config) if c.messages else None) for c in conversations]


def _judge(conversation: Conversation, config: LengthConfig) -> Verdict | None:
    """The first bound that a conversation fails. An answer that calls tools may be of any length."""
    asked = _count(prompt(conversation))
    if asked < config.min_prompt_words:
        return Verdict("prompt too short", f"{_words(asked)}, fewer than {config.min_prompt_words}", asked)
    if config.max_prompt_words is not None and asked > config.max_prompt_words:
        return Verdict("prompt too long", f"{_words(asked)}, more than {config.max_prompt_words}", asked)
    said = _count(answer(conversation))
    if said < config.min_answer_words and not _calls_tools(conversation):
        return Verdict("answer too short", f"{_words(said)}, fewer than {config.min_answer_words}", said)
    if config.max_answer_words is not None and said > config.max_answer_words:
        return Verdict("answer too long", f"{_words(said)}, more than {config.max_answer_words}", said)
    share = trained_share(conversation)
    if share < config.min_trained_share:
        return Verdict("trained share too small", f"{share:.1%}, below {config.min_trained_share:.1%}", share)
    if share > config.max_trained_share:
        return Verdict("trained share too large", f"{share:.1%}, above {config.max_trained_share:.1%}", share)
    return None


def trained_share(conversation: Conversation) -> float:
    """The share of the characters that assistant turns hold, their reasoning and tool calls too; 0 without any."""
    sizes = [(message.role == "assistant", _size(message)) for message in conversation.messages]
    whole = sum(size for _, size in sizes)
    return sum(size for assistant, size in sizes if assistant) / whole if whole else 0.0


def _size(message: Message) -> int:
    """Characters of a message, what an assistant turn holds beside its content included."""
    if message.role != "assistant" or not message.extra:
        return len(message.content)
    extra = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in message.extra.values()
    ]
    return len(message.content) + sum(len(text) for text in extra)


def _calls_tools(conversation: Conversation) -> bool:
    """Whether the last assistant turn calls tools."""
    turns = [message for message in conversation.messages if message.role == "assistant"]
    return bool(turns) and bool(turns[-1].extra.get("tool_calls"))


def _count(text: str) -> int:
    """Words of a text."""
    return sum(1 for _ in WORDS.finditer(text))


def _words(count: int) -> str:
    """``1 word``, ``7 words``."""
    return f"{count} word{'s' * (count != 1)}"
