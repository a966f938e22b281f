"""Finish every converted conversation: fill placeholders, add tags and scores, and check the source's role.

A placeholder is an identifier in double braces. One without a value is an error: the model would learn to write it.
Data about Jinja, Vue or Mustache has such text on purpose; ``placeholders: keep`` leaves a placeholder without a value
unchanged. Plain documents are filled where there are values, and otherwise left unchanged.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import Placeholders, Role, SourceConfig
from sft_cli.data.formats.columns import missing_column, replay_advice
from sft_cli.data.formats.fields import checked_text, wrong_type
from sft_cli.data.row_errors import RowError
from sft_cli.types import Conversation, Row
from sft_cli.utils.similar import closest_name

PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def postprocess(conversation: Conversation, row: Row, config: SourceConfig) -> Conversation:
    """Return the finished conversation; its tags and scores are read from ``row``."""
    if config.role is Role.replay and conversation.messages:
        raise RowError(
            where=conversation.where,
            reason="replay of a conversation",
            problem="role=replay trains whole documents as plain text, but the row is a conversation",
            fix=replay_advice(row.source, [name for name, value in row.values.items() if isinstance(value, str)]),
        )
    tags = {**conversation.tags, **_tags(row, config.tags)} if config.tags else conversation.tags
    keep = config.placeholders is Placeholders.keep or conversation.text is not None
    if (config.variables or not keep) and any("{{" in text for text in _texts(conversation)):
        conversation = _fill_placeholders(conversation, row, config.variables, keep)
    scores = _scores(row, config.scores) if config.scores else conversation.scores
    if tags is conversation.tags and scores is conversation.scores:
        return conversation
    return replace(conversation, tags=tags, scores=scores)


def _fill_placeholders(conversation: Conversation, row: Row, variables: Mapping[str, str], keep: bool) -> Conversation:
    """Return the conversation with its placeholders replaced; values are not searched for placeholders."""

    def value_of(match: re.Match[str]) -> str:
        """Return the value of a placeholder."""
        name = match.group(1)
        if name not in variables and keep:
            return match.group()
        if name not in variables:
            near = closest_name(name, variables)
            source = f"data.mix.{row.source}"
            key = f"{source}.variables"
            setting = format_override(f"{key}.{name}", "its text")
            raise RowError(
                where=row.where,
                reason="unfilled placeholder",
                problem=f"the placeholder {match.group()} has no value in {key}",
                fix=f"did you mean {key}.{near}?"
                if near
                else f"{source}.placeholders=keep if it is literal text, or {setting}",
            )
        return variables[name]

    def fill(value: Any) -> Any:
        """Fill the placeholders in a value and in everything below it."""
        if isinstance(value, str):
            return PLACEHOLDER.sub(value_of, value) if "{{" in value else value
        if isinstance(value, Mapping):
            return {key: fill(entry) for key, entry in value.items()}
        return [fill(entry) for entry in value] if isinstance(value, list | tuple) else value

    messages = tuple(
        replace(message, content=fill(message.content), extra=fill(message.extra)) for message in conversation.messages
    )
    tools = None if conversation.tools is None else tuple(fill(conversation.tools))
    return replace(conversation, messages=messages, tools=tools, text=fill(conversation.text))


def _texts(conversation: Conversation) -> Iterator[str]:
    """Yield the texts of a conversation: content, reasoning, tool schemas and tool calls."""
    if conversation.text is not None:
        yield conversation.text
    for message in conversation.messages:
        yield message.content
        if message.extra:
            yield from _strings(message.extra)
    if conversation.tools is not None:
        yield from _strings(conversation.tools)


def _strings(value: Any) -> Iterator[str]:
    """Yield every text inside a value, except the keys of mappings."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value


def _tags(row: Row, columns: Mapping[str, str]) -> Mapping[str, str]:
    """Return the tags of a row; null and empty text are no tag."""
    tags = {}
    for tag, column in columns.items():
        value = _column(row, tag, column, "tags")
        if isinstance(value, bool | int | float):
            value = str(value).lower() if isinstance(value, bool) else str(value)
        if value is not None and checked_text(value, column, row.where).strip():
            tags[tag] = value
    return tags


def _scores(row: Row, columns: Mapping[str, str]) -> Mapping[str, float]:
    """Return the scores of a row; null and empty text are no score, and numbers may be text, as in CSV files."""
    scores = {}
    for score, column in columns.items():
        value = _column(row, score, column, "scores")
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        number = _number(value)
        if number is None:
            raise wrong_type(value, column, "a finite number", row.where)
        scores[score] = number
    return scores


def _column(row: Row, name: str, column: str, key: str) -> Any:
    if column in row.values:
        return row.values[column]
    near = closest_name(column, row.values)
    setting = f"data.mix.{row.source}.{key}.{name}"
    raise RowError(
        where=row.where,
        reason=f"missing field {column}",
        problem=missing_column(row, column, column).problem,
        fix=f"did you mean {setting}={near}?"
        if near
        else f"give every row {column!r} (null for none), or change {setting}",
    )


def _number(value: Any) -> float | None:
    """Return a finite number, or the number of a text; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
