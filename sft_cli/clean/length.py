"""Filter by the length of prompt and answer in words, and by the share of text that is trained."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sft_cli.clean.base import Finding, Findings, RowView, answer_text, prompt_text
from sft_cli.config.schema.clean import LengthConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation, Message

WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Words separated by white space; each Chinese or Japanese character counts as one."""


class LengthViolation(NamedTuple):
    """The reason of a dropped row, the sentence about it, and the value that is out of bounds."""

    reason: str
    detail: str
    value: float


def check_length(config: LengthConfig) -> None:
    """Refuse bounds that no row can meet, or that every row meets."""
    if config == LengthConfig(min_answer_words=0):
        raise SftError(
            where="clean.length",
            problem="no bound is set, so no row would be dropped",
            fix="set one, such as clean.length.min_answer_words=1, or remove length from clean.steps",
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
                problem=f"{low} is {least}, but {high} is {most}: every row would be dropped",
                fix=f"clean.length.{high}={least}, or remove clean.length.{low}",
            )
            for low, least, high, most in pairs
            if most is not None and least > most
        ]
    )


def find_length(rows: RowView, config: LengthConfig) -> Findings:
    """Return a finding for each row that is out of bounds, and the report.

    Documents and rows of token ids have neither prompt nor answer, and pass. The report has ``reasons`` (reason ->
    rows) and ``not_judged`` rows.
    """
    check_length(config)
    return _find(rows, config)


def _find(rows: RowView, config: LengthConfig) -> Findings:
    """Yield the findings of ``find_length``."""
    reasons, not_judged = Counter[str](), 0
    for start, batch in rows.map(length_violations, config):
        for index, (is_bounded, violation) in enumerate(batch, start):
            not_judged += not is_bounded
            if violation is not None:
                reasons[violation.reason] += 1
                yield Finding(index, violation.reason, violation.detail, violation.value)
    return {"reasons": dict(sorted(reasons.items())), "not_judged": not_judged}


def length_violations(
    conversations: Sequence[Conversation], config: LengthConfig
) -> list[tuple[bool, LengthViolation | None]]:
    """Return for each conversation whether bounds apply to it, and the bound that it violates."""
    return [(bool(c.messages), _first_violation(c, config) if c.messages else None) for c in conversations]


def _first_violation(conversation: Conversation, config: LengthConfig) -> LengthViolation | None:
    """Return the first bound that a conversation violates. An answer that calls tools may be of any length."""
    prompt_words = _count_words(prompt_text(conversation))
    if prompt_words < config.min_prompt_words:
        return LengthViolation(
            "prompt too short", f"{_words_phrase(prompt_words)}, fewer than {config.min_prompt_words}", prompt_words
        )
    if config.max_prompt_words is not None and prompt_words > config.max_prompt_words:
        return LengthViolation(
            "prompt too long", f"{_words_phrase(prompt_words)}, more than {config.max_prompt_words}", prompt_words
        )
    answer_words = _count_words(answer_text(conversation))
    if answer_words < config.min_answer_words and not _calls_tools(conversation):
        return LengthViolation(
            "answer too short", f"{_words_phrase(answer_words)}, fewer than {config.min_answer_words}", answer_words
        )
    if config.max_answer_words is not None and answer_words > config.max_answer_words:
        return LengthViolation(
            "answer too long", f"{_words_phrase(answer_words)}, more than {config.max_answer_words}", answer_words
        )
    share = trained_share(conversation)
    if share < config.min_trained_share:
        return LengthViolation("trained share too small", f"{share:.1%}, below {config.min_trained_share:.1%}", share)
    if share > config.max_trained_share:
        return LengthViolation("trained share too large", f"{share:.1%}, above {config.max_trained_share:.1%}", share)
    return None


def trained_share(conversation: Conversation) -> float:
    """Return the share of characters in assistant turns, including reasoning and tool calls; 0 without text."""
    sizes = [(message.role == "assistant", _size(message)) for message in conversation.messages]
    total = sum(size for _, size in sizes)
    return sum(size for assistant, size in sizes if assistant) / total if total else 0.0


def _size(message: Message) -> int:
    """Return the characters of a message, including reasoning and tool calls of an assistant turn."""
    if message.role != "assistant" or not message.extra:
        return len(message.content)
    extra = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in message.extra.values()
    ]
    return len(message.content) + sum(len(text) for text in extra)


def _calls_tools(conversation: Conversation) -> bool:
    """Return whether the last assistant turn calls tools."""
    turns = [message for message in conversation.messages if message.role == "assistant"]
    return bool(turns) and bool(turns[-1].extra.get("tool_calls"))


def _count_words(text: str) -> int:
    """Return the number of words of a text."""
    return sum(1 for _ in WORDS.finditer(text))


def _words_phrase(count: int) -> str:
    """Return ``1 word``, ``7 words``."""
    return f"{count} word{'s' * (count != 1)}"
