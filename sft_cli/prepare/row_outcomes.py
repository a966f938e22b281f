"""Convert the outcomes of encoded rows to tables, and back."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sft_cli.chat.encode_result import EncodeResult
from sft_cli.data.ledger import ALL_CUT, TOO_LONG, UNPROVEN
from sft_cli.data.row_errors import RowError
from sft_cli.types import Conversation


class RowOutcome(NamedTuple):
    """The outcome of one row: a row of the Arrow tables of the encode stage.

    Attributes:
        row: Its number in its store.
        examples: Number of its examples; 0 if it has an error.
        tokens: Tokens of all its examples.
        trained_tokens: Tokens that carry loss.
        truncated_messages: Messages removed from its beginning.
        truncated_tokens: Tokens removed from its end.
        longest: Tokens of its longest example before truncation, or of an example that is too long; 0 without one.
        min_length: The shortest trainer.max_length at which truncation leaves a trained token.
        reason: The reason of its error, as in ``RowError``; None if it has no error.
        where: Location of the error.
        problem: Message of the error.
        fix: Fix of the error.
        labels: Its tags and scores as JSON; None if it has none.
        remarks: Keys of its remarks, separated by commas; None if there are none.
    """

    row: int
    examples: int
    tokens: int
    trained_tokens: int
    truncated_messages: int
    truncated_tokens: int
    longest: int
    min_length: int
    reason: str | None
    where: str | None
    problem: str | None
    fix: str | None
    labels: str | None
    remarks: str | None


NUM_INTEGERS = RowOutcome._fields.index("reason")
"""The columns before this one hold integers, the others texts."""
ERROR_COLUMNS = ("reason", "where", "problem", "fix")


def row_outcome(row: int, conversation: Conversation, outcome: EncodeResult) -> RowOutcome:
    """Return the stored outcome of a row."""
    examples = outcome.examples
    error = _error(outcome)
    labels = None
    if conversation.tags or conversation.scores:
        values = {"tags": dict(conversation.tags), "scores": dict(conversation.scores)}
        labels = json.dumps(values, ensure_ascii=False)
    remarks = {*conversation.remarks, *outcome.remarks, *(["empty_answer"] if _has_empty_answer(conversation) else [])}
    return RowOutcome(
        row=row,
        examples=len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        trained_tokens=sum(len(example.weights) - example.weights.count(0) for example in examples),
        truncated_messages=outcome.dropped_messages,
        truncated_tokens=outcome.truncated_tokens,
        longest=outcome.max_tokens,
        min_length=outcome.min_length,
        reason=error and error.reason,
        where=error and error.where,
        problem=error and error.problem,
        fix=error and error.fix,
        labels=labels,
        remarks=",".join(sorted(remarks)) or None,
    )


def _error(outcome: EncodeResult) -> RowError | None:
    """Return the error of an outcome, with its reason in the ledger."""
    if outcome.problem is None:
        return None
    reason = ALL_CUT if outcome.no_loss_left else TOO_LONG if outcome.too_long else UNPROVEN
    error = outcome.problem
    return RowError(where=error.where, reason=reason, problem=error.problem, fix=error.fix)


def _has_empty_answer(conversation: Conversation) -> bool:
    """Return whether a trained answer is empty."""
    answers = [m for m in conversation.messages if m.role == "assistant" and m.weight]
    return any(not (answer.content.strip() or answer.extra) for answer in answers)


def outcome_table(outcomes: Sequence[RowOutcome]) -> Any:
    """Return outcomes as an Arrow table."""
    import pyarrow

    texts = len(RowOutcome._fields) - NUM_INTEGERS
    types = (*[pyarrow.int64()] * NUM_INTEGERS, *[pyarrow.string()] * texts)
    columns = zip(*outcomes, strict=True) if outcomes else [()] * len(types)
    names = RowOutcome._fields
    return pyarrow.table(
        {name: pyarrow.array(column, type) for name, column, type in zip(names, columns, types, strict=True)}
    )


def errors_of(table: Any) -> list[RowError]:
    """Return the errors in a table of outcomes."""
    import pyarrow.compute as compute

    failed = table.select(ERROR_COLUMNS).filter(compute.is_valid(table.column("reason")))  # pyright: ignore[reportAttributeAccessIssue]
    return [RowError(**columns) for columns in failed.to_pylist()]
