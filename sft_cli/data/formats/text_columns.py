"""Convert text columns: a question and its answer, lists of exchanges, and plain documents."""

from collections.abc import Iterable
from typing import Any

from sft_cli.data.formats.fields import Builder, Fields, FormatOptions, checked_text, parse_list, wrong_type
from sft_cli.data.formats.message_keys import read_message_keys
from sft_cli.data.formats.messages import build_conversation, conversation_from_column
from sft_cli.data.formats.prompt_completion import parse_message_columns, prompt_and_answer
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.formats.system_column import system_messages
from sft_cli.data.row_errors import RowError, format_list
from sft_cli.types import Conversation, Message

SIDES = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("question", "answer"))
"""Pairs of keys that lists of exchanges use for question and answer."""


def question_answer_format(question: str, answer: str, *inputs: str) -> Builder:
    """Return a builder for a question column, an answer column and optional inputs appended to the question."""

    def build(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
        """Return the conversation of a row."""
        context = RowContext.from_fields(fields, options)
        input_texts = {name: text for name in inputs if (text := fields.optional(name)).strip()}
        if len(input_texts) > 1:
            raise RowError(
                where=fields.row.where,
                reason="two inputs",
                problem=f"fields {' and '.join(input_texts)} both hold an input of the instruction",
                fix="keep one of them",
            )
        fields = parse_message_columns(fields, (question, answer))
        if not input_texts and any(isinstance(fields.values[side], list | dict) for side in (question, answer)):
            messages = prompt_and_answer(fields, question, answer, context)
        else:
            question_text = options.separator.join([fields.text(question), *input_texts.values()])
            messages = [Message("user", question_text), Message("assistant", fields.answer(answer))]
        return (build_conversation(fields, [*_history(fields), *messages], context),)

    return build


def document_format(column: str) -> Builder:
    """Return a builder for plain documents in one column."""

    def build(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
        return (Conversation((), where=fields.row.where, source=fields.row.source, text=fields.text(column)),)

    return build


def from_rendered_text(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversation of ``{text}``, which the tokenizer's chat template has rendered already."""
    row = fields.row
    return (Conversation((), where=row.where, source=row.source, text=fields.text("text"), rendered=True),)


def from_exchanges(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversation of ``{conversation, system?, tools?}``: ``{human, assistant}`` pairs, or messages."""
    field, where = fields.columns["conversation"], fields.row.where
    value = parse_list(fields.values["conversation"])
    if not isinstance(value, list):
        raise wrong_type(value, field, "a list of exchanges {human, assistant}", where)
    if any(isinstance(entry, dict) and ("role" in entry or "from" in entry) for entry in value):
        return (conversation_from_column(fields, "conversation", RowContext.from_fields(fields, options)),)
    if not value:
        raise RowError(
            where=where,
            reason="no assistant turn",
            problem=f"field {field!r} has no exchanges; there is nothing to train on",
            fix="add one or remove the row",
        )
    context = RowContext.from_fields(fields, options)
    messages: list[Message] = []
    for index, entry in enumerate(value):
        first = not messages and not system_messages(fields, context)
        messages += _pair(entry, f"{field}[{index}]", f"{field}[]", context, first)
    return (build_conversation(fields, messages, context),)


def _pair(entry: Any, field: str, names: str, context: RowContext, first: bool) -> Iterable[Message]:
    """Yield question and answer of one exchange; the first exchange may have the system message.

    Args:
        entry: The exchange.
        field: Its path, for errors.
        names: Its path, for notes.
        context: The row.
        first: Whether a system message may come here.
    """
    where = context.where
    if not isinstance(entry, dict):
        raise wrong_type(entry, field, "an exchange {human, assistant}", where)
    sides = next((pair for pair in SIDES if all(side in entry for side in pair)), None)
    if sides is None:
        raise RowError(
            where=where,
            reason="exchange without question and answer",
            problem=f"field {field!r} has {format_list(entry) or 'no keys'}; expected human and assistant",
            fix='write each exchange as {"human": "…", "assistant": "…"}',
        )
    system = entry.get("system")
    if system not in (None, ""):
        if not first:
            raise RowError(
                where=where,
                reason="system message inside a conversation",
                problem=f"field '{field}.system' is a system message that is not the first message",
                fix="move it to the front or remove it",
            )
        yield Message("system", checked_text(system, f"{field}.system", where))
    question = checked_text(entry[sides[0]], f"{field}.{sides[0]}", where)
    if not question.strip():
        raise _empty_question(f"{field}.{sides[0]}", question, where, "remove the exchange or the row")
    yield Message("user", question)
    keys = read_message_keys(entry, (*sides, "system"), "assistant", field, names, context)
    weight = 1.0 if keys.weight is None else keys.weight
    yield Message("assistant", checked_text(entry[sides[1]], f"{field}.{sides[1]}", where), weight, keys.extra)


def _history(fields: Fields) -> Iterable[Message]:
    """Yield the messages of earlier exchanges, each a pair of question and answer."""
    pairs = parse_list(fields.values.get("history")) or []
    field, where = fields.columns.get("history", "history"), fields.row.where
    if not isinstance(pairs, list):
        raise wrong_type(pairs, field, "a list of pairs [question, answer]", where)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong_type(pair, f"{field}[{index}]", "a pair [question, answer]", where)
        for role, turn, side in (("user", pair[0], 0), ("assistant", pair[1], 1)):
            content = checked_text(turn, f"{field}[{index}][{side}]", where)
            if role == "user" and not content.strip():
                raise _empty_question(f"{field}[{index}][{side}]", content, where, "remove the pair from the history")
            yield Message(role, content)


def _empty_question(field: str, value: str, where: str, fix: str) -> RowError:
    return RowError(
        where=where,
        reason="empty question",
        problem=f"field {field!r} is {value!r}; expected non-empty text",
        fix=fix,
    )
