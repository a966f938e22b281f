"""Convert a prompt and its answer, each a text or a list of messages (TRL, OpenAI's Responses API)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sft_cli.data.formats.fields import Fields, FormatOptions, checked_text
from sft_cli.data.formats.messages import build_conversation, parse_messages
from sft_cli.data.formats.row_context import RowContext, has_value
from sft_cli.data.row_errors import RowError
from sft_cli.types import Conversation, Message
from sft_cli.utils.text import parse_json


def as_message_list(value: Any) -> list[Any] | None:
    """Return a value as a list of messages: a list of them, or a single one; None for any other value."""
    value = [value] if isinstance(value, Mapping) else value
    is_list = isinstance(value, list) and value and all(map(_is_message, value))
    return value if is_list else None


def parse_message_columns(fields: Fields, names: Iterable[str]) -> Fields:
    """Return the fields with the JSON text of message lists parsed, as CSV files hold them.

    They are parsed only if every one of these columns is such a list, so that a text that looks like one stays a text.
    """
    parsed = {}
    for name in names:
        value = fields.values.get(name)
        if not has_value(value):
            continue
        if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
            return fields
        try:
            parsed[name] = parse_json(value)
        except ValueError:
            return fields
        if as_message_list(parsed[name]) is None:
            return fields
    return Fields({**fields.values, **parsed}, fields.columns, fields.row)


def messages_in_column(fields: Fields, name: str, role: str, context: RowContext) -> list[Message]:
    """Return the messages of a column; a text becomes one message of the role.

    Raises:
        RowError: The column holds neither, or an empty question.
    """
    value, column = fields.values[name], fields.columns[name]
    messages = as_message_list(value)
    if messages is None and isinstance(value, list):
        messages = value  # an empty list, or entries that are not messages: ``parse_messages`` raises the error
    if messages is not None:
        return parse_messages(messages, column, context)
    if role == "user":
        return [Message("user", fields.text(name))]
    return [Message(role, checked_text(value, column, context.where))]


def prompt_and_answer(fields: Fields, question: str, answer: str, context: RowContext) -> list[Message]:
    """Return the messages of both sides; assistant messages of the prompt carry no loss.

    Raises:
        RowError: The answer has no message of the assistant, or continues the last message of the prompt.
    """
    prompt_messages = messages_in_column(fields, question, "user", replace(context, default_weight=0.0))
    answer_messages = messages_in_column(fields, answer, "assistant", context)
    column = fields.columns[answer]
    if not any(message.role == "assistant" for message in answer_messages):
        raise RowError(
            where=context.where,
            reason="no assistant turn",
            problem=f"field {column!r} has no message of the assistant; there is nothing to train on",
            fix="add the assistant's answer or remove the row",
        )
    if (
        prompt_messages
        and prompt_messages[-1].role == answer_messages[0].role == "assistant"
        and not prompt_messages[-1].extra.get("tool_calls")
    ):
        raise RowError(
            where=context.where,
            reason="answer starts in the prompt",
            problem=f"field {fields.columns[question]!r} ends with a message of the assistant that {column!r}"
            " continues; only whole messages can be trained",
            fix=f"put the whole answer into {column!r}",
        )
    return [*prompt_messages, *answer_messages]


def from_responses(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversation of ``{input, output, instructions?, tools?}`` (OpenAI's Responses): texts, or items."""
    context = RowContext.from_fields(fields, options)
    return (build_conversation(fields, prompt_and_answer(fields, "input", "output", context), context),)


def _is_message(value: Any) -> bool:
    """Return whether a value is a message, or an item of the Responses API."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value or isinstance(value.get("type"), str))
