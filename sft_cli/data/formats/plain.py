"""Formats of text columns: alpaca, prompt_completion, text."""

from collections.abc import Iterable

from sft_cli.data.formats.fields import Fields, checked_text, wrong_type
from sft_cli.data.problems import RowError
from sft_cli.data.types import Conversation, Message


def alpaca(fields: Fields, input_separator: str) -> Conversation:
    """``{instruction, input?, output, system?, history?}``: the input, if any, stands below the instruction."""
    instruction, given = fields.text("instruction"), fields.optional("input")
    question = f"{instruction}{input_separator}{given}" if given.strip() else instruction
    return _exchange(fields, question, fields.said("output"))


def prompt_completion(fields: Fields, input_separator: str) -> Conversation:
    """``{prompt, completion, system?, history?}``: one question, one answer."""
    return _exchange(fields, fields.text("prompt"), fields.said("completion"))


def text(fields: Fields, input_separator: str) -> Conversation:
    """``{text}``: a plain document."""
    return Conversation(messages=(), where=fields.row.where, source=fields.row.source, text=fields.text("text"))


def _exchange(fields: Fields, question: str, answer: str) -> Conversation:
    """A system message and earlier exchanges, if the row has them, then question and answer."""
    system = fields.optional("system")
    messages = [Message("system", system)] if system.strip() else []
    messages += [*_history(fields), Message("user", question), Message("assistant", answer)]
    return Conversation(messages=tuple(messages), where=fields.row.where, source=fields.row.source)


def _history(fields: Fields) -> Iterable[Message]:
    """Earlier exchanges, each a pair of question and answer."""
    pairs = fields.values.get("history") or []
    field, where = fields.columns.get("history", "history"), fields.row.where
    if not isinstance(pairs, list):
        raise wrong_type(pairs, field, "a list of pairs [question, answer]", where)
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong_type(pair, f"{field}[{index}]", "a pair [question, answer]", where)
        for role, turn, side in (("user", pair[0], 0), ("assistant", pair[1], 1)):
            content = checked_text(turn, f"{field}[{index}][{side}]", where)
            if role == "user" and not content.strip():
                raise RowError(
                    where=where,
                    reason="empty question",
                    problem=f"field '{field}[{index}][{side}]' is {content!r}; expected non-empty text",
                    fix="remove the pair from the history",
                )
            yield Message(role, content)
