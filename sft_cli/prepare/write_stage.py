"""The last stage: examples of both sides, stages and ledger, written from the stages before it in bounded memory."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import DataConfig, OnBadRow, Overflow
from sft_cli.console import progress
from sft_cli.data.ledger import TOO_LONG_REASONS, Entry, Ledger
from sft_cli.data.lengths import Lengths
from sft_cli.data.prepared import Side, SplitWriter
from sft_cli.data.remarks import RemarkCounts
from sft_cli.data.row_errors import LeftOut, RowError
from sft_cli.errors import SftError
from sft_cli.prepare.encode_stage import Encoded
from sft_cli.prepare.filtered_rows import Cleaned, Note
from sft_cli.prepare.row_outcomes import Fate

CHUNK = 5000
"""Rows accounted for at once."""


@dataclass(frozen=True)
class Part:
    """One store on its way into the prepared directory.

    Attributes:
        source: Name of the source in the mix.
        rows: The store behind the filters.
        encoded: The examples of its chosen rows.
        chosen: ``(rows,)``: whether max_rows left a row in.
        held_out: ``(rows,)``: whether a row is held out.
        copies: ``(rows,)``: times a row is in an epoch, over all stages.
    """

    source: str
    rows: Cleaned
    encoded: Encoded
    chosen: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    copies: NDArray[np.int64]


def write_examples(parts: Sequence[Part], writers: Mapping[Side, SplitWriter]) -> None:
    """Write every example once that an epoch or the held-out rows hold."""
    with progress("write", sum(len(part.encoded.column("row")) for part in parts)) as shown:
        for part in parts:
            for fates, examples in zip(part.encoded.fates(), part.encoded.examples(), strict=True):
                row = np.repeat(fates.column("row").to_numpy(), fates.column("examples").to_numpy())
                used, held_out = part.copies[row] > 0, part.held_out[row]
                masks: dict[Side, NDArray[np.bool_]] = {"train": used & ~held_out, "validation": used & held_out}
                for side, mask in masks.items():
                    if mask.any():
                        writers[side].write(examples.filter(mask))
                shown.advance(fates.num_rows)


def account(parts: Sequence[Part], ledger: Ledger) -> RemarkCounts:
    """Enter every row into the ledger; the remarks of the used rows."""
    remarks = RemarkCounts()
    with progress("ledger", sum(len(part.rows.store) for part in parts)) as shown:
        for part in parts:
            fates, places, start = _Fates(part.encoded), part.rows.store.places(), 0
            while chunk := list(itertools.islice(places, CHUNK)):
                _account(part, fates, start, chunk, ledger, remarks)
                start += len(chunk)
                shown.advance(len(chunk))
    return remarks


class _Fates:
    """What became of rows that are asked for in ascending order."""

    def __init__(self, encoded: Encoded) -> None:
        tables = ([table.column(name).to_pylist() for name in Fate._fields] for table in encoded.fates())
        self._rows = (Fate(*values) for columns in tables for values in zip(*columns, strict=True))
        self._next = next(self._rows, None)

    def of(self, row: int) -> Fate | None:
        """The fate of a row; None for one that was not encoded."""
        if self._next is None or self._next.row != row:
            return None
        found, self._next = self._next, next(self._rows, None)
        return found


def _account(
    part: Part,
    fates: _Fates,
    start: int,
    places: list[tuple[str, RowError | None]],
    ledger: Ledger,
    remarks: RemarkCounts,
) -> None:
    """Enter consecutive rows."""
    notes = part.rows.notes(start, start + len(places))
    for row, (where, error) in enumerate(places, start):
        fate = fates.of(row)
        entry = _entry(part, row, where, error, notes.get(row, []), fate)
        ledger.add(entry)
        if entry.fate == "used" and fate is not None and fate.remarks:
            remarks.add(fate.remarks.split(","), where)


def _entry(part: Part, row: int, where: str, error: RowError | None, notes: list[Note], fate: Fate | None) -> Entry:
    """The line of one row."""
    labels = json.loads(fate.labels) if fate and fate.labels else {"tags": {}, "scores": {}}
    scores = {**labels["scores"], **{note.measure: note.score for note in notes if note.score is not None}}
    place: dict[str, Any] = {
        "where": where,
        "source": part.source,
        "split": "validation" if part.held_out[row] else "train",
        "scores": scores,
        "tags": labels["tags"],
    }
    for note in notes:
        if note.reason is not None:
            return Entry(**place, fate="dropped", reason=note.reason, detail=note.detail, filter=note.filter)
    left_out = isinstance(error, LeftOut)
    if not (part.chosen[row] or left_out):
        return Entry(**place, fate="not_sampled")
    if error is not None:
        by = error.by if isinstance(error, LeftOut) else None
        return Entry(**place, fate="dropped", reason=error.reason, detail=error.problem, filter=by)
    assert fate is not None, f"{where} was chosen, but never encoded"
    if fate.problem is not None:
        reason, _, problem, _ = json.loads(fate.problem)
        return Entry(**place, fate="dropped", reason=reason, detail=problem)
    return Entry(
        **place,
        fate="used" if part.copies[row] else "not_sampled",
        examples=fate.examples,
        copies=int(part.copies[row]),
        tokens=fate.tokens,
        trained_tokens=fate.trained,
        truncated_messages=fate.truncated,
        truncated_tokens=fate.cut,
    )


def unreadable(rows: Cleaned, chosen: NDArray[np.bool_]) -> Iterator[SftError]:
    """What is wrong with the chosen rows that are no conversations."""
    if (chosen & ~rows.store.good()).any():
        for row, (_, error) in enumerate(rows.store.places()):
            if error is not None and chosen[row]:
                yield error


def fatal(problems: Iterable[str], data: DataConfig) -> Iterator[SftError]:
    """Of the problems of rows, those that stop the run at once: masks that are not proven."""
    for told in problems:
        reason, where, problem, fix = json.loads(told)
        if reason not in TOO_LONG_REASONS and data.on_bad_row is OnBadRow.error:
            yield SftError(where=where, problem=problem, fix=fix)


def measure(
    stores: Iterable[tuple[Cleaned, Encoded, NDArray[np.bool_]]], max_length: int, context: int | None
) -> Lengths:
    """How long the rows of all stores are.

    Args:
        stores: Each with its examples and ``(rows,)`` which rows were chosen.
        max_length: ``trainer.max_length``.
        context: Most tokens the model takes, or None.
    """
    found, least = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    others, first, longest, most = 0, None, "", 0
    for rows, encoded, chosen in stores:
        tokens, numbers = encoded.column("longest"), encoded.column("row")
        others += int((chosen & ~rows.store.good() & ~rows.store.left_out()).sum()) + int((tokens == 0).sum())
        found.append(tokens[tokens > 0])
        least.append(encoded.column("least")[tokens > 0])
        over = numbers[tokens > max_length]
        if first is None and len(over):
            first = next(rows.store.read(over[:1])).where
        if len(tokens) and tokens.max() > most:
            most = int(tokens.max())
            longest = next(rows.store.read(numbers[[tokens.argmax()]])).where
    return Lengths(np.concatenate(found), np.concatenate(least), others, max_length, context, first, longest)


def too_long(lengths: Lengths, data: DataConfig) -> Iterator[SftError]:
    """One error for all rows that are too long, if they stop the run."""
    if data.overflow is Overflow.error and lengths.first is not None:
        fix = lengths.advice(data.budget, data.overflow)
        yield SftError(where=lengths.first, problem=lengths.told(), fix=fix)
