"""Record the fate of every input row: used, dropped with a reason, or not sampled."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import IO, Literal

from sft_cli.config.schema.data import BudgetConfig, DataConfig, Overflow
from sft_cli.data.lengths import RowLengths, round_up_share
from sft_cli.errors import SftError, raise_all

Fate = Literal["used", "dropped", "not_sampled"]
TOO_LONG = "too long"
"""The reason of rows that are longer than ``trainer.max_length``."""
ALL_CUT = "too long, no trained token left by truncation"
"""The reason of rows that ``data.overflow=truncate`` would leave without a token that carries loss."""
TOO_LONG_REASONS = frozenset({TOO_LONG, ALL_CUT})
UNPROVEN = "mask not proven"
"""The reason of rows whose mask cannot be proven."""
TRUNCATED = "truncated"
"""The key of rows that lost turns or tokens, among the reasons."""
TOLERANCE = 1e-6
"""Rounding tolerance, in rows: 29 of 100 do not exceed a limit of 0.29, though 0.29 * 100 is 28.999999999999996."""
_to_json = json.JSONEncoder(ensure_ascii=False).encode
MAX_REASONS = 3
"""Reasons in the message of an exceeded budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """The fate of one input row.

    Attributes:
        where: Its location.
        source: Name of the source in the mix.
        split: ``train`` or ``validation``.
        fate: ``used``, ``dropped``, or ``not_sampled`` (max_rows or the mix left it out).
        reason: Why it was dropped, in a few words that all such rows share; None otherwise.
        detail: A sentence about this row; None unless dropped.
        filter: The filter of clean that dropped it, or None.
        examples: Its number of examples; several if it was unrolled or cut into pieces.
        copies: Times each of its examples occurs in an epoch.
        tokens: Tokens of its examples, counted once each.
        trained_tokens: Tokens of its examples that carry loss.
        truncated_messages: Messages removed from its beginning to fit the length.
        truncated_tokens: Tokens removed from its end to fit the length; together with ``tokens``, those of the whole
            row.
        scores: Its own scores, and those of filters.
        tags: Its tags.
    """

    where: str
    source: str
    split: str
    fate: Fate
    reason: str | None = None
    detail: str | None = None
    filter: str | None = None
    examples: int = 0
    copies: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated_messages: int = 0
    truncated_tokens: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.fate == "dropped") == (self.reason is not None), f"{self.where}: {self.fate}, {self.reason}"

    @property
    def is_truncated(self) -> bool:
        """Whether the row is used, but truncated."""
        return self.fate == "used" and (self.truncated_messages > 0 or self.truncated_tokens > 0)


COLUMNS = tuple(LedgerEntry.__dataclass_fields__)
"""Keys of a line of ledger.jsonl."""
COUNTED_COLUMNS = (
    *("rows", "used", "dropped", "not_sampled", "truncated"),
    *("examples", "tokens", "trained_tokens", "truncated_tokens"),
)
"""The counts of every source."""


class Ledger:
    """Writes and counts ledger entries, without keeping them.

    Attributes:
        counts: Per source: rows, rows of each fate, truncated rows, and over all copies examples, tokens, trained
            tokens, and truncated tokens.
        splits: The same counts per split, of its used rows.
        split_rows: Per source, rows that became several examples.
        held_out_dropped: Dropped rows of the validation split, by reason.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file, self._values = file, attrgetter(*COLUMNS)
        self.counts: dict[str, dict[str, int]] = {}
        self.splits: dict[str, Counter[str]] = {"train": Counter(), "validation": Counter()}
        self.split_rows: Counter[str] = Counter()
        self.held_out_dropped: Counter[str] = Counter()
        self._reasons: dict[str, Counter[tuple[str, bool]]] = {}
        self._first: dict[tuple[str | None, str | None], str] = {}

    def add(self, entry: LedgerEntry) -> None:
        """Write and count one row."""
        if self._file is not None:
            line = dict(zip(COLUMNS, self._values(entry), strict=True))
            self._file.write(_to_json(line) + "\n")
        count = self.counts.setdefault(entry.source, dict.fromkeys(COUNTED_COLUMNS, 0))
        totals = {
            "rows": 1,
            entry.fate: 1,
            "truncated": int(entry.is_truncated),
            "examples": entry.examples * entry.copies,
            "tokens": entry.tokens * entry.copies,
            "trained_tokens": entry.trained_tokens * entry.copies,
            "truncated_tokens": entry.truncated_tokens * entry.copies,
        }
        counters = (count, self.splits[entry.split]) if entry.fate == "used" else (count,)
        for counter in counters:
            for name, number in totals.items():
                counter[name] += number
        self.split_rows[entry.source] += entry.fate == "used" and entry.examples > 1
        key = entry.reason or (TRUNCATED if entry.is_truncated else None)
        for source in (entry.source, None) if key else ():
            self._first.setdefault((source, key), entry.where)
        if entry.reason is not None:
            self.held_out_dropped[entry.reason] += entry.split == "validation"
            self._reasons.setdefault(entry.source, Counter())[entry.reason, entry.filter is not None] += 1

    def reasons(self, source: str | None = None) -> dict[str, int]:
        """Return the number of dropped rows per reason, the most frequent first; of one source, or of all."""
        return _by_frequency((reason, number) for reason, _, number in self._drop_counts(source))

    def _drop_counts(self, source: str | None) -> Iterable[tuple[str, bool, int]]:
        """Yield each reason, whether a filter gave it, and its number of rows."""
        for name, counter in self._reasons.items():
            if source in (None, name):
                yield from ((reason, filtered, number) for (reason, filtered), number in counter.items())

    def check_budgets(self, data: DataConfig, lengths: RowLengths | None = None) -> None:
        """Raise ``SftError`` if more rows were lost than a budget allows, or no row of a source is left.

        Shares are of the rows that were used or dropped. Rows not sampled do not count, and rows that a filter dropped
        count only for ``filtered``.

        Args:
            data: The budgets, and the settings that drop rows.
            lengths: The lengths of the rows, for advice.
        """
        empty_sources = [name for name in self.counts if self._is_empty(name)]
        errors = [self._empty_source_error(name, data, lengths) for name in empty_sources]
        if empty_sources != list(self.counts):
            errors += self._exceeded_limits(None, data.budget, "data.budget", data, lengths)
        for name, source in data.mix.items():
            if name not in empty_sources:
                errors += self._exceeded_limits(name, source.budget, f"data.mix.{name}.budget", data, lengths)
        raise_all(errors)

    def _is_empty(self, source: str) -> bool:
        """Return whether every row of a source was dropped."""
        count = self.counts[source]
        return count["dropped"] > 0 and not count["used"]

    def _empty_source_error(self, source: str, data: DataConfig, lengths: RowLengths | None) -> SftError:
        """Return the error for a source of which no row is left."""
        dropped, length_fix = self.counts[source]["dropped"], self._length_advice(source, data, lengths)
        return SftError(
            where=f"data.mix.{source}",
            problem=f"no row is left, {dropped} were dropped: {self.summarize_reasons(source, data=data)}",
            fix=length_fix or "repair the rows, or remove the source from data.mix",
        )

    def _length_advice(self, source: str | None, data: DataConfig, lengths: RowLengths | None) -> str:
        """Return the ``trainer.max_length`` that would keep the rows; empty if no row is too long."""
        if lengths is None or not TOO_LONG_REASONS & self.reasons(source).keys():
            return ""
        return lengths.advice(data.budget, data.overflow)

    def _exceeded_limits(
        self, source: str | None, budget: BudgetConfig, key: str, data: DataConfig, lengths: RowLengths | None
    ) -> Iterable[SftError]:
        """Yield an error for every limit of a budget that was exceeded.

        Args:
            source: The source; None for all.
            budget: Its budget.
            key: Configuration key of the budget.
            data: The settings that drop rows.
            lengths: The lengths of the rows, for advice.
        """
        counts = [count for name, count in self.counts.items() if source in (None, name)]
        used, truncated = (sum(count[name] for count in counts) for name in ("used", "truncated"))
        drops = list(self._drop_counts(source))
        filtered = sum(number for _, by_filter, number in drops if by_filter)
        dropped = sum(number for _, by_filter, number in drops if not by_filter)
        unproven = sum(number for reason, _, number in drops if reason == UNPROVEN)
        limits = (
            ("dropped", budget.dropped, dropped, used + dropped, "dropped",
             self.summarize_reasons(source, by_filter=False, data=data)),
            ("filtered", budget.filtered, filtered, used + dropped + filtered, "filtered out",
             self.summarize_reasons(source, by_filter=True)),
            ("unproven", budget.unproven, unproven, used + dropped, "not proven",
             self.summarize_reasons(source, only=UNPROVEN)),
            ("truncated", budget.truncated, truncated, used, "truncated", self._truncated_summary(source, data)),
        )  # fmt: skip
        for name, limit, number, total, verb, why in limits:
            if limit is None or number <= limit * total + TOLERANCE:
                continue
            share = number / total
            repair = "raise trainer.max_length" if name == "truncated" else "repair the rows"
            length_fix = self._length_advice(source, data, lengths) if name == "dropped" else ""
            if name == "truncated" and data.overflow is Overflow.truncate and lengths is not None:
                length_fix = lengths.uncut_advice(limit if source is None else 0.0)
            yield SftError(
                where=f"{key}.{name}",
                problem=f"{number} of {total} rows ({share:.2%}) were {verb}, more than {limit:.2%}: {why}",
                fix=f"{length_fix or repair}\n{key}.{name}={round_up_share(share)}",
            )

    def _truncated_summary(self, source: str | None, data: DataConfig) -> str:
        """Return how many rows are too long, by how much, and the first of them."""
        counts = [count for name, count in self.counts.items() if source in (None, name)]
        number, tokens = (sum(count[name] for count in counts) for name in ("truncated", "truncated_tokens"))
        first = self._first.get((source, TRUNCATED))
        if data.overflow is Overflow.truncate:
            return f"{number} longer than trainer.max_length, {tokens:,} tokens cut ({first})"
        return f"{number} too long for all turns ({first})"

    def summarize_reasons(
        self,
        source: str | None = None,
        by_filter: bool | None = None,
        only: str | None = None,
        data: DataConfig | None = None,
    ) -> str:
        """Return ``3 empty answer (rows.jsonl:2)`` and the like, the most frequent first, each with its first row.

        Args:
            source: The source; None for all.
            by_filter: Only reasons that filters gave, or only others; None for both.
            only: A single reason; None for all.
            data: Adds the setting that drops such rows; None adds none.
        """
        drops = [
            (reason, number)
            for reason, from_filter, number in self._drop_counts(source)
            if by_filter in (None, from_filter) and only in (None, reason)
        ]
        reasons = list(_by_frequency(drops).items())
        more = f", and {len(reasons) - MAX_REASONS} more reasons" if len(reasons) > MAX_REASONS else ""
        parts = (
            f"{number} {reason} ({self._first[source, reason]}{_drop_setting(reason, data)})"
            for reason, number in reasons[:MAX_REASONS]
        )
        return ", ".join(parts) + more


def _drop_setting(reason: str, data: DataConfig | None) -> str:
    """Return the setting that drops rows of a reason, after a separator; empty if none does."""
    if data is None:
        return ""
    setting = ("overflow", data.overflow.value) if reason in TOO_LONG_REASONS else ("on_bad_row", data.on_bad_row.value)
    return f"; data.{setting[0]}={setting[1]}" if setting[1] != "error" else ""


def _by_frequency(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return numbers summed by reason, the most frequent first."""
    counter: Counter[str] = Counter()
    for reason, number in pairs:
        counter[reason] += number
    return dict(sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))
