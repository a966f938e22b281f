"""Questions and answers whose sides may be lists of messages: TRL's prompt and completion, OpenAI's items."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sft_cli.data.formats.fields import Fields, Knobs, checked_text, parsed
from sft_cli.data.formats.messages import built, read_turns
from sft_cli.data.formats.row_context import Context, holds
from sft_cli.data.row_errors import RowError
from sft_cli.types import Conversation, Message


def talked(value: Any) -> list[Any] | None:
    """The list of messages a value is, or the one message; None for anything else."""
    value = [value] if isinstance(value, Mapping) else value
    spoken = isinstance(value, list) and value and all(map(_is_message, value))
    return value if spoken else None


def unpacked(fields: Fields, names: Iterable[str]) -> Fields:
    """The fields with lists of messages for their JSON text, as CSV files hold them.

    Only where every column of these names is one: a single text that looks like messages is a text.
    """
    found = {}
    for name in names:
        value = fields.values.get(name)
        if not holds(value):
            continue
        if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
            return fields
        try:
            found[name] = parsed(value)
        except ValueError:
            return fields
        if talked(found[name]) is None:
            return fields
    return Fields({**fields.values, **found}, fields.columns, fields.row)


def said_in(fields: Fields, name: str, role: str, context: Context) -> list[Message]:
    """The messages of a column: of a list as they are, of a text one message of the role.

    Raises:
        RowError: It is neither, or an empty question.
    """
    value, column = fields.values[name], fields.columns[name]
    messages = talked(value)
    if messages is None and isinstance(value, list):
        messages = value  # an empty list, or entries that are no messages: the error names them
    if messages is not None:
        return read_turns(messages, column, context)
    if role == "user":
        return [Message("user", fields.text(name))]
    return [Message(role, checked_text(value, column, context.where))]


def answered(fields: Fields, question: str, answer: str, context: Context) -> list[Message]:
    """The messages of both sides; what the assistant says in the question is context and carries no loss.

    Raises:
        RowError: The answer holds no message of the assistant, or goes on with the last one of the question.
    """
    asked = said_in(fields, question, "user", replace(context, untold=0.0))
    said = said_in(fields, answer, "assistant", context)
    column = fields.columns[answer]
    if not any(message.role == "assistant" for message in said):
        raise RowError(
            where=context.where,
            reason="no assistant turn",
            problem=f"field {column!r} has no message of the assistant; there is nothing to learn to say",
            fix="add the assistant's answer or remove the row",
        )
    if asked and asked[-1].role == said[0].role == "assistant" and not asked[-1].extra.get("tool_calls"):
        raise RowError(
            where=context.where,
            reason="answer begun in the prompt",
            problem=f"field {fields.columns[question]!r} ends with a message of the assistant that {column!r} goes on "
            "with; a message is trained as a whole",
            fix=f"put the whole answer into {column!r}, or leave such rows out with data.on_bad_row=drop",
        )
    return [*asked, *said]


def responses(fields: Fields, knobs: Knobs) -> tuple[Conversation, ...]:
    """``{input, output, instructions?, tools?}`` of OpenAI's Responses: texts, or lists of items."""
    context = Context.of(fields, knobs)
    return (built(fields, answered(fields, "input", "output", context), context),)


def _is_message(value: Any) -> bool:
    """Whether a value is a message, or an item of the Responses API."""
    return isinstance(value, Mapping) and ("role" in value or "from" in value or isinstance(value.get("type"), str))
