"""Questions and answers whose sides may be lists of messages: TRL's prompt and completion, OpenAI's items."""

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
    """The list of messages a value is, or the one message; None for anything else."""
    value = [value] if isinstance(value, Mapping) else value
    is_list = isinstance(value, list) and value and all(map(_is_message, value))
    return value if is_list else None


def parse_message_columns(fields: Fields, names: Iterable[str]) -> Fields:
    """The fields with lists of messages for their JSON text, as CSV files hold them.

    Only where every column of these names is one: a single text that looks like messages is a text.
    """
    found = {}
    for name in names:
        value = fields.values.get(name)
        if not has_value(value):
            continue
        if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
            return fields
        try:
            found[name] = parse_json(value)
        except ValueError:
            return fields
        if as_message_list(found[name]) is None:
            return fields
    return Fields({**fields.values, **found}, fields.columns, fields.row)


def messages_in_column(fields: Fields, name: str, role: str, context: RowContext) -> list[Message]:
    """The messages of a column: of a list as they are, of a text one message of the role.

    Raises:
        RowError: It is neither, or an empty question.
    """
    value, column = fields.values[name], fields.columns[name]
    messages = as_message_list(value)
    if messages is None and isinstance(value, list):
        messages = value  # an empty list, or entries that are no messages: the error names them
    if messages is not None:
        return parse_messages(messages, column, context)
    if role == "user":
        return [Message("user", fields.text(name))]
    return [Message(role, checked_text(value, column, context.where))]


def prompt_and_answer(fields: Fields, question: str, answer: str, context: RowContext) -> list[Message]:
    """The messages of both sides; what the assistant says in the question is context and carries no loss.

    Raises:
        RowError: The answer holds no message of the assistant, or goes on with the last one of the question.
    """
    prompt_messages = messages_in_column(fields, question, "user", replace(context, default_weight=0.0))
    answer_messages = messages_in_column(fields, answer, "assistant", context)
    column = fields.columns[answer]
    if not any(message.role == "assistant" for message in answer_messages):
        raise RowError(
            where=context.where,
            reason="no assistant turn",
            problem=f"field {column!r} has no message of the assistant; there is nothing to learn to say",
            fix="add the assistant's answer or remove the row",
        )
    if (
        prompt_messages
        and prompt_messages[-1].role == answer_messages[0].role == "assistant"
        and not prompt_messages[-1].extra.get("tool_calls")
    ):
        raise RowError(
            where=context.where,
            reason="answer begun in the prompt",
            problem=f"field {fields.columns[question]!r} ends with a message of the assistant that {column!r} goes on "
            "with; a message is trained as a whole",
            fix=f"put the whole answer into {column!r}, or leave such rows out with data.on_bad_row=drop",
        )
    return [*prompt_messages, *answer_messages]


def from_responses(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """``{input, output, instructions?, tools?}`` of OpenAI's Responses: texts, or lists of items."""
    context = RowContext.from_fields(fields, options)
    return (build_conversation(fields, prompt_and_answer(fields, "input", "output", context), context),)


def _is_message(value: Any) -> bool:
    """Whether a value is a message, or an item of the Responses API."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value or isinstance(value.get("type"), str))
