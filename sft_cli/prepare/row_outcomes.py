"""What became of each row that was encoded."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sft_cli.chat.encode_result import EncodeResult
from sft_cli.data.ledger import ALL_CUT, TOO_LONG, UNPROVEN
from sft_cli.types import Conversation


class Fate(NamedTuple):
    """What became of one row.

    Attributes:
        row: Its number in its store.
        examples: Examples it became; 0 if it was refused.
        tokens: Tokens of them all.
        trained: Those that carry loss.
        truncated: Messages taken off its front.
        cut: Tokens cut off its end.
        longest: Tokens of its longest example, also where that is too long or was cut; 0 where none was made.
        least: The shortest trainer.max_length at which truncation leaves a trained token of it.
        problem: What is wrong with it: reason, where, problem and fix as JSON; None if nothing.
        labels: Its tags and scores as JSON; None if it has none.
        remarks: Keys of its remarks, separated by commas; None if there are none.
    """

    row: int
    examples: int
    tokens: int
    trained: int
    truncated: int
    cut: int
    longest: int
    least: int
    problem: str | None
    labels: str | None
    remarks: str | None


def fate_of(row: int, conversation: Conversation, outcome: EncodeResult) -> Fate:
    """What became of a row."""
    examples, problem = outcome.examples, outcome.problem
    reason = ALL_CUT if outcome.no_loss_left else TOO_LONG if outcome.too_long else UNPROVEN
    told = problem and json.dumps([reason, problem.where, problem.problem, problem.fix], ensure_ascii=False)
    labels = None
    if conversation.tags or conversation.scores:
        found = {"tags": dict(conversation.tags), "scores": dict(conversation.scores)}
        labels = json.dumps(found, ensure_ascii=False)
    remarks = {*conversation.remarks, *outcome.remarks, *(["empty_answer"] if _silent(conversation) else [])}
    return Fate(
        row=row,
        examples=len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        trained=sum(len(example.weights) - example.weights.count(0) for example in examples),
        truncated=outcome.dropped_messages,
        cut=outcome.truncated_tokens,
        longest=outcome.max_tokens,
        least=outcome.min_length,
        problem=told or None,
        labels=labels,
        remarks=",".join(sorted(remarks)) or None,
    )


def _silent(conversation: Conversation) -> bool:
    """Whether an answer that is trained says nothing."""
    answers = [m for m in conversation.messages if m.role == "assistant" and m.weight]
    return any(not (answer.content.strip() or answer.extra) for answer in answers)


def fate_table(fates: Sequence[Fate]) -> Any:
    """Fates as an Arrow table."""
    import pyarrow

    numbers, texts = pyarrow.int64(), pyarrow.string()
    kinds = (*[numbers] * 8, *[texts] * 3)
    columns = zip(*fates, strict=True) if fates else [()] * len(kinds)
    return pyarrow.table(
        {name: pyarrow.array(column, kind) for name, column, kind in zip(Fate._fields, columns, kinds, strict=True)}
    )
