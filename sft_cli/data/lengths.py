"""Measure the lengths of rows, and advise a ``trainer.max_length`` that keeps them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import BudgetConfig, Overflow

LENGTH_STEP = 64
"""Advised lengths are multiples of this."""
ALMOST_ALL = 0.99
"""Share of the rows to keep if the other rows are far longer."""
TOLERANCE = 1e-6
"""Rounding tolerance, in rows: 0.99 of 100 are 99."""


@dataclass(frozen=True)
class RowLengths:
    """The lengths of the encoded rows of a run.

    Attributes:
        tokens: ``(rows,)`` tokens of the longest example of each row, before it was truncated.
        min_lengths: ``(rows,)`` the shortest ``max_length`` at which truncation leaves a trained token of each row.
        num_other_losses: Rows that were dropped for other reasons.
        max_length: ``trainer.max_length``.
        context: Context length of the model; None if unknown.
        first_too_long: Location of the first row that is too long; None if none is.
        longest: Location of the longest row.
    """

    tokens: NDArray[np.int64]
    min_lengths: NDArray[np.int64]
    num_other_losses: int
    max_length: int
    context: int | None
    first_too_long: str | None
    longest: str

    @property
    def limit(self) -> int:
        """Length of the longest rows that both the settings and the model accept."""
        return self.max_length if self.context is None else min(self.max_length, self.context)

    @property
    def too_long(self) -> int:
        """Number of rows longer than ``max_length``."""
        return int((self.tokens > self.max_length).sum())

    def describe(self) -> str:
        """Return ``12 of 300 rows are longer than trainer.max_length=512; the longest has …``."""
        longest = int(self.tokens.max())
        rows, are = "row" if len(self.tokens) == 1 else "rows", "is" if self.too_long == 1 else "are"
        return (
            f"{self.too_long:,} of {len(self.tokens):,} {rows} {are} longer than trainer.max_length={self.max_length};"
            f" the longest has {longest:,} tokens ({self.longest})"
            + (f", and the model takes at most {self.context:,}" if self.context and longest > self.context else "")
        )

    def length_keeping(self, share: float) -> int | None:
        """Return the shortest advised length that keeps a share of the rows; None if it exceeds the context."""
        number = math.ceil(share * len(self.tokens) - TOLERANCE)
        tokens = int(np.sort(self.tokens)[number - 1])
        if self.context is not None and tokens > self.context:
            return None
        length = math.ceil(tokens / LENGTH_STEP) * LENGTH_STEP
        return length if self.context is None else min(length, self.context)

    def kept_share(self, max_length: int) -> float:
        """Return the share of the rows that a length keeps."""
        return float((self.tokens <= max_length).mean())

    def dropped_share(self, max_length: int) -> float:
        """Return the share of all rows that are dropped if those longer than a length are."""
        return (int((self.tokens > max_length).sum()) + self.num_other_losses) / (
            len(self.tokens) + self.num_other_losses
        )

    def advice(self, budget: BudgetConfig, overflow: Overflow) -> str:
        """Return settings that pass, one alternative per line, each with the share of rows that it keeps as comment.

        Args:
            budget: ``data.budget``.
            overflow: The current ``data.overflow``.
        """
        dropping = overflow is not Overflow.error
        rows = replace(self, tokens=self.min_lengths) if overflow is Overflow.truncate else self
        all_rows, almost_all = rows.length_keeping(1.0), rows.length_keeping(ALMOST_ALL)
        candidates = [all_rows] if all_rows is not None else []
        candidates += [almost_all] if almost_all is not None else []
        candidates += [self.context] if all_rows is None and self.context is not None else []
        if overflow is Overflow.truncate:  # a shorter length would cut more
            uncut = self.length_keeping(1.0)
            candidates = [length for length in (uncut, *candidates) if length is not None and length > self.limit]
        candidates += [] if dropping and self.limit == self.max_length else [self.limit]
        options = []
        for length in self._distinct(candidates, rows):
            kept = rows.kept_share(length)
            settings = [f"trainer.max_length={length}"] if length != self.max_length else []
            settings += ["data.overflow=drop"] if kept < 1 and not dropping else []
            settings += rows.dropped_budget(length, budget)
            if kept and settings:
                cut = self.count_truncated(length)[1] if overflow is Overflow.truncate else 0
                options.append(f"{' '.join(settings)}  # keeps {_share(kept)}{f', {cut:,} of them cut' if cut else ''}")
        options += [] if dropping else self._truncating(budget)
        too_long = f": the model takes at most {self.context:,} tokens" if all_rows is None else ""
        return "\n".join(options) or f"shorten the rows{too_long}"

    def _distinct(self, lengths: Sequence[int], rows: "RowLengths") -> list[int]:
        """Return the lengths, one of those that keep the same rows: the current one, or else the shortest.

        Args:
            lengths: Lengths for ``trainer.max_length``.
            rows: The lengths of the rows that decide whether a row is kept.
        """
        chosen: dict[tuple[float, int], int] = {}
        for length in sorted(lengths, key=lambda length: (length != self.max_length, length)):
            chosen.setdefault((rows.kept_share(length), self.count_truncated(length)[1]), length)
        return [length for length in dict.fromkeys(lengths) if length in chosen.values()]

    def dropped_budget(self, max_length: int, budget: BudgetConfig) -> list[str]:
        """Return the setting that allows the loss of rows longer than a length; empty if it is allowed."""
        lost = self.dropped_share(max_length)
        if budget.dropped is None or lost <= budget.dropped:
            return []
        return [f"data.budget.dropped={round_up_share(lost)}"]

    def _truncating(self, budget: BudgetConfig) -> list[str]:
        """Return the settings that truncate too long rows, with the rows that they keep; empty if no row is cut.

        Args:
            budget: ``data.budget``.
        """
        length = self.limit
        used, cut = self.count_truncated(length)
        if not cut:
            return []
        settings = [f"trainer.max_length={length}"] if length != self.max_length else []
        settings.append(f"data.overflow={Overflow.truncate.value}")
        settings += replace(self, tokens=self.min_lengths).dropped_budget(length, budget)
        if budget.truncated is not None and cut > budget.truncated * used:
            settings.append(f"data.budget.truncated={round_up_share(cut / used)}")
        return [f"{' '.join(settings)}  # keeps {_share(used / len(self.tokens))}, {cut:,} of them cut"]

    def count_truncated(self, max_length: int) -> tuple[int, int]:
        """Return how many rows are kept when truncated to a length, and how many of them are cut."""
        used = self.min_lengths <= max_length
        return int(used.sum()), int((used & (self.tokens > max_length)).sum())

    def uncut_advice(self, limit: float) -> str:
        """Return the ``trainer.max_length`` that truncates at most a share of the rows; empty if there is none."""
        for length in (self.length_keeping(1 - limit), self.length_keeping(1.0), self.context):
            used, cut = self.count_truncated(length) if length is not None else (0, 0)
            if length is not None and length > self.max_length and cut <= limit * used + TOLERANCE:
                return f"trainer.max_length={length}  # cuts {f'{cut:,} of {used:,} rows' if cut else 'no row'}"
        return ""


def round_up_share(share: float) -> float:
    """Return a share rounded up to two significant digits, at most 1."""
    digits = 1 - math.floor(math.log10(share))
    return min(1.0, round(math.ceil(share * 10**digits) / 10**digits, digits))


def _share(share: float) -> str:
    """Return ``all rows``, or a share in per cent that is never rounded up to all."""
    return "all rows" if share == 1 else f"{math.floor(share * 1000) / 10:g}%"
