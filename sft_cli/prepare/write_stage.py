"""The last stage: write the examples of both splits and the ledger, in bounded memory."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import DataConfig, Overflow
from sft_cli.data.ledger import Ledger, LedgerEntry
from sft_cli.data.lengths import RowLengths
from sft_cli.data.prepared_writer import SplitWriter
from sft_cli.data.remarks import RemarkCounts
from sft_cli.data.row_errors import RowError, RowExcluded
from sft_cli.errors import SftError
from sft_cli.prepare.encode_stage import EncodedSource
from sft_cli.prepare.filtered_rows import FilterNote
from sft_cli.prepare.row_outcomes import RowOutcome
from sft_cli.prepare.source_split import SourceSplit
from sft_cli.progress import progress
from sft_cli.types import SplitName

CHUNK = 5000
"""Rows written to the ledger at once."""


def write_examples(splits: Sequence[SourceSplit], writers: Mapping[SplitName, SplitWriter]) -> None:
    """Write each example of an epoch and of the held-out rows once."""
    with progress("write", sum(len(split.encoded.column("row")) for split in splits)) as bar:
        for split in splits:
            for outcomes, examples in zip(split.encoded.outcomes(), split.encoded.examples(), strict=True):
                row = np.repeat(outcomes.column("row").to_numpy(), outcomes.column("examples").to_numpy())
                used, held_out = split.copies[row] > 0, split.held_out[row]
                masks: dict[SplitName, NDArray[np.bool_]] = {"train": used & ~held_out, "validation": used & held_out}
                for name, mask in masks.items():
                    if mask.any():
                        writers[name].write(examples.filter(mask))
                bar.advance(outcomes.num_rows)


def write_ledger(splits: Sequence[SourceSplit], ledger: Ledger) -> RemarkCounts:
    """Write every row to the ledger.

    Returns:
        The remarks about the used rows.
    """
    remarks = RemarkCounts()
    with progress("ledger", sum(len(split.store) for split in splits)) as bar:
        for split in splits:
            outcomes, locations, start = _OutcomeCursor(split.encoded), split.store.locations(), 0
            while chunk := list(itertools.islice(locations, CHUNK)):
                _write_entries(split, outcomes, start, chunk, ledger, remarks)
                start += len(chunk)
                bar.advance(len(chunk))
    return remarks


class _OutcomeCursor:
    """Outcomes of rows that are requested in ascending order."""

    def __init__(self, encoded: EncodedSource) -> None:
        tables = ([table.column(name).to_pylist() for name in RowOutcome._fields] for table in encoded.outcomes())
        self._rows = (RowOutcome(*values) for columns in tables for values in zip(*columns, strict=True))
        self._next = next(self._rows, None)

    def find(self, row: int) -> RowOutcome | None:
        """Return the outcome of a row, None if it was not encoded."""
        if self._next is None or self._next.row != row:
            return None
        outcome, self._next = self._next, next(self._rows, None)
        return outcome


def _write_entries(
    split: SourceSplit,
    outcomes: _OutcomeCursor,
    start: int,
    locations: list[tuple[str, RowError | None]],
    ledger: Ledger,
    remarks: RemarkCounts,
) -> None:
    """Write consecutive rows to the ledger.

    Args:
        split: The split.
        outcomes: Outcomes of its rows from ``start`` on.
        start: Number of the first row.
        locations: Location and error of each row.
        ledger: Receives an entry for each row.
        remarks: Receives the remarks about the used rows.
    """
    notes = split.rows.notes(start, start + len(locations))
    for row, (where, error) in enumerate(locations, start):
        outcome = outcomes.find(row)
        entry = _entry(split, row, where, error, notes.get(row, []), outcome)
        ledger.add(entry)
        if entry.fate == "used" and outcome is not None and outcome.remarks:
            remarks.add(outcome.remarks.split(","), where)


def _entry(
    split: SourceSplit,
    row: int,
    where: str,
    error: RowError | None,
    notes: list[FilterNote],
    outcome: RowOutcome | None,
) -> LedgerEntry:
    """Return the ledger entry of one row.

    Args:
        split: The split.
        row: Number of the row.
        where: Its location.
        error: Its error, if it is not a conversation.
        notes: Notes of filters about it.
        outcome: Outcome of its encoding, if it was encoded.
    """
    labels = json.loads(outcome.labels) if outcome and outcome.labels else {"tags": {}, "scores": {}}
    common: dict[str, Any] = {
        "where": where,
        "source": split.source,
        "split": "validation" if split.held_out[row] else "train",
        "scores": {**labels["scores"], **{note.score_name: note.score for note in notes if note.score is not None}},
        "tags": labels["tags"],
    }
    for note in notes:
        if note.reason is not None:
            return LedgerEntry(**common, fate="dropped", reason=note.reason, detail=note.detail, filter=note.filter)
    if not (split.chosen[row] or isinstance(error, RowExcluded)):
        return LedgerEntry(**common, fate="not_sampled")
    if error is not None:
        excluded_by = error.by if isinstance(error, RowExcluded) else None
        return LedgerEntry(**common, fate="dropped", reason=error.reason, detail=error.problem, filter=excluded_by)
    assert outcome is not None, f"{where} was chosen, but not encoded"
    if outcome.reason is not None:
        return LedgerEntry(**common, fate="dropped", reason=outcome.reason, detail=outcome.problem)
    return LedgerEntry(
        **common,
        fate="used" if split.copies[row] else "not_sampled",
        examples=outcome.examples,
        copies=int(split.copies[row]),
        tokens=outcome.tokens,
        trained_tokens=outcome.trained_tokens,
        truncated_messages=outcome.truncated_messages,
        truncated_tokens=outcome.truncated_tokens,
    )


def measure_lengths(splits: Iterable[SourceSplit], max_length: int, context: int | None) -> RowLengths:
    """Return the lengths of the chosen rows of all splits.

    Args:
        splits: The encoded splits.
        max_length: ``trainer.max_length``.
        context: Context length of the model; None if unknown.
    """
    lengths, min_lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    num_other_losses, first_too_long, longest, max_tokens = 0, None, "", 0
    for split in splits:
        store, encoded = split.store, split.encoded
        tokens, numbers = encoded.column("longest"), encoded.column("row")
        num_invalid = int((split.chosen & ~store.is_valid() & ~store.is_excluded()).sum())
        num_other_losses += num_invalid + int((tokens == 0).sum())
        lengths.append(tokens[tokens > 0])
        min_lengths.append(encoded.column("min_length")[tokens > 0])
        too_long = numbers[tokens > max_length]
        if first_too_long is None and len(too_long):
            first_too_long = next(store.read(too_long[:1])).where
        if len(tokens) and tokens.max() > max_tokens:
            max_tokens = int(tokens.max())
            longest = next(store.read(numbers[[tokens.argmax()]])).where
    return RowLengths(
        np.concatenate(lengths),
        np.concatenate(min_lengths),
        num_other_losses,
        max_length,
        context,
        first_too_long,
        longest,
    )


def too_long_errors(lengths: RowLengths, data: DataConfig) -> Iterator[SftError]:
    """Yield one error for all rows that are too long, if they stop the run."""
    if data.overflow is Overflow.error and lengths.first_too_long is not None:
        fix = lengths.advice(data.budget, data.overflow)
        yield SftError(where=lengths.first_too_long, problem=lengths.describe(), fix=fix)
