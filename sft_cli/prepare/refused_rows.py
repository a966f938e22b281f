"""Report all rows that stop a run in one error: an entry for each kind, with the settings that leave such rows out."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sft_cli.config.schema.data import BudgetConfig, DataConfig, OnBadRow
from sft_cli.data.ledger import TOO_LONG_REASONS, UNPROVEN
from sft_cli.data.lengths import RowLengths, round_up_share
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError, raise_all
from sft_cli.prepare.source_split import SourceSplit
from sft_cli.prepare.write_stage import too_long_errors

MAX_KINDS = 10
"""Kinds of bad rows that are reported."""
MANY_ROWS = 1000
"""A part of at least this many rows without a usable one ends the encoding: not the rows are wrong, but a setting."""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|0x[0-9a-f]+|[\d,]+")
"""The variable parts of messages of one kind: quoted texts, bytes and numbers."""


@dataclass(frozen=True)
class RefusedRows:
    """The rows that stop a run.

    Attributes:
        splits: The splits, with their rows selected; ``check`` needs them encoded.
        data: The settings that decide which rows stop the run.
    """

    splits: Sequence[SourceSplit]
    data: DataConfig

    def check_part(self, num_rows: int, errors: list[RowError]) -> None:
        """Raise the errors of many consecutive rows if none of them is usable and bad rows stop the run.

        Args:
            num_rows: Number of the rows.
            errors: Errors of their encoding.
        """
        bad = [error for error in errors if error.reason not in TOO_LONG_REASONS]
        if self.data.on_bad_row is OnBadRow.error and len(bad) == num_rows >= MANY_ROWS:
            raise_all(one_of_each_kind(itertools.chain(self._unconverted(), bad)))

    def check(self, lengths: RowLengths) -> None:
        """Raise one error that lists all rows that stop the run; return if there are none.

        Args:
            lengths: The lengths of the rows.

        Raises:
            SftError: A row is no conversation, its mask cannot be proven, or it is too long, and the settings refuse
                such rows.
        """
        errors: list[SftError] = []
        if self.data.on_bad_row is OnBadRow.error:
            encoding = (error for split in self.splits for error in split.encoded.errors())
            bad = (error for error in encoding if error.reason not in TOO_LONG_REASONS)
            errors += one_of_each_kind(itertools.chain(self._unconverted(), bad))
        if errors and (settings := self._settings_to_drop()):
            errors = [_with_alternative(error, settings) for error in errors]
        raise_all([*errors, *too_long_errors(lengths, self.data)])

    def _unconverted(self) -> Iterator[RowError]:
        """Yield the errors of the chosen rows that are no conversations."""
        for split in self.splits:
            if (split.chosen & ~split.store.is_valid()).any():
                for row, (_, error) in enumerate(split.store.locations()):
                    if error is not None and split.chosen[row]:
                        yield error

    def _settings_to_drop(self) -> str:
        """Return settings that drop the bad rows, with a comment; empty if a source would have no row left."""
        by_source: dict[str, Counter[str]] = {}
        for split in self.splits:
            by_source.setdefault(split.source, Counter()).update(_count_rows(split))
        if not all(count["used"] for count in by_source.values()):
            return ""
        total = sum(by_source.values(), Counter[str]())
        budgets = [("data.budget", self.data.budget, total)]
        budgets += [(f"data.mix.{name}.budget", self.data.mix[name].budget, count) for name, count in by_source.items()]
        settings = ["data.on_bad_row=drop", *(word for budget in budgets for word in _budget_settings(*budget))]
        rows = total["rows"]
        return f"{' '.join(settings)}  # leaves out {total['bad']:,} of {rows:,} row{'s' * (rows != 1)}"


def _count_rows(split: SourceSplit) -> dict[str, int]:
    """Return how many of the chosen rows of a split are usable, bad, unproven or dropped for any reason."""
    reasons = Counter(error.reason for error in split.encoded.errors())
    unconverted = int((split.chosen & ~split.store.is_valid() & ~split.store.is_excluded()).sum())
    rows, refused = unconverted + len(split.encoded.column("row")), unconverted + reasons.total()
    too_long = sum(reasons[reason] for reason in TOO_LONG_REASONS)
    return {
        "rows": rows, "used": rows - refused, "dropped": refused, "bad": refused - too_long,
        "unproven": reasons[UNPROVEN],
    }  # fmt: skip


def _budget_settings(key: str, budget: BudgetConfig, count: Counter[str]) -> Iterator[str]:
    """Yield the settings that allow the dropped rows, where a budget does not."""
    for name, limit in (("dropped", budget.dropped), ("unproven", budget.unproven)):
        share = count[name] / count["rows"]
        if limit is not None and share > limit:
            yield f"{key}.{name}={round_up_share(share)}"


def one_of_each_kind(errors: Iterable[SftError]) -> list[SftError]:
    """Return the first error of each kind, with the number of other rows that have it."""
    first: dict[str, SftError] = {}
    counts: Counter[str] = Counter()
    for error in errors:
        kind = _kind(error)
        counts[kind] += 1
        if kind in first or len(first) < MAX_KINDS:
            first.setdefault(kind, error)
    reported = [_with_count(error, counts[kind] - 1) for kind, error in first.items()]
    if others := sum(number for kind, number in counts.items() if kind not in first):
        last_error = reported[-1]
        reported[-1] = SftError(
            where=last_error.where, problem=f"{last_error.problem} (and {others} other rows)", fix=last_error.fix
        )
    return reported


def _kind(error: SftError) -> str:
    """Return the reason and the message without quoted texts and numbers, equal for errors of one kind."""
    reason = error.reason if isinstance(error, RowError) else ""
    return f"{reason}: {_QUOTED.sub('', error.problem)}"


def _with_count(error: SftError, others: int) -> SftError:
    """Return the error with the number of other rows that have it."""
    more = f" (and {others} more row{'s' * (others != 1)})" if others else ""
    return SftError(where=error.where, problem=f"{error.problem}{more}", fix=error.fix)


def _with_alternative(error: SftError, fix: str) -> SftError:
    """Return the error with another fix below its own."""
    return SftError(where=error.where, problem=error.problem, fix=f"{error.fix}\n{fix}")
