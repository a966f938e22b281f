"""How long rows are, and which ``trainer.max_length`` keeps how many of them: measured, for advice that works."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import BudgetConfig, Overflow

LENGTH_STEP = 64
"""Advised lengths are multiples of this."""
ALMOST_ALL = 0.99
"""Share of the rows that is worth keeping where the rest is far longer."""
TOLERANCE = 1e-6
"""Rows; 0.99 of 100 are 99, whatever floating-point numbers say."""


@dataclass(frozen=True)
class RowLengths:
    """The rows of a run that were encoded.

    Attributes:
        tokens: ``(rows,)`` tokens of the longest example of each row, before it was truncated.
        min_lengths: ``(rows,)`` the shortest ``max_length`` at which truncation leaves a trained token of each row.
        num_other_losses: Rows that are lost for other reasons.
        max_length: ``trainer.max_length``.
        context: Most tokens the model takes; None if that is not known.
        first_too_long: Place of the first row that is too long; None if none is.
        longest: Place of the longest row.
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
        """The longest rows that the settings and the model both take."""
        return self.max_length if self.context is None else min(self.max_length, self.context)

    @property
    def too_long(self) -> int:
        """Rows longer than ``max_length``."""
        return int((self.tokens > self.max_length).sum())

    def describe(self) -> str:
        """``12 of 300 rows are longer than trainer.max_length=512; the longest has 1,900 tokens (rows.jsonl:17)``."""
        are = "row is" if len(self.tokens) == 1 else "rows are"
        return (
            f"{self.too_long:,} of {len(self.tokens):,} {are} longer than trainer.max_length={self.max_length};"
            f" the longest has {int(self.tokens.max()):,} tokens ({self.longest})"
        )

    def length_keeping(self, share: float) -> int | None:
        """The shortest advised length that keeps a share of the rows; None if the model cannot take it."""
        number = math.ceil(share * len(self.tokens) - TOLERANCE)
        wanted = int(np.sort(self.tokens)[number - 1])
        if self.context is not None and wanted > self.context:
            return None
        length = math.ceil(wanted / LENGTH_STEP) * LENGTH_STEP
        return length if self.context is None else min(length, self.context)

    def kept_share(self, max_length: int) -> float:
        """Share of the rows that a length keeps."""
        return float((self.tokens <= max_length).mean())

    def dropped_share(self, max_length: int) -> float:
        """Share of all rows that are dropped where those longer than a length are."""
        return (int((self.tokens > max_length).sum()) + self.num_other_losses) / (
            len(self.tokens) + self.num_other_losses
        )

    def advice(self, budget: BudgetConfig, overflow: Overflow) -> str:
        """Settings that pass, with the share of the rows that each keeps.

        Args:
            budget: ``data.budget``.
            overflow: What happens now to rows that are too long.
        """
        dropping = overflow is not Overflow.error
        rows = replace(self, tokens=self.min_lengths) if overflow is Overflow.truncate else self
        whole, most = rows.length_keeping(1.0), rows.length_keeping(ALMOST_ALL)
        tried = [whole] if whole is not None else []
        tried += [most] if most is not None else []
        tried += [self.context] if whole is None and self.context is not None else []
        if overflow is Overflow.truncate:  # a shorter length would cut more
            uncut = self.length_keeping(1.0)
            tried = [length for length in (uncut, *tried) if length is not None and length > self.limit]
        tried += [] if dropping and self.limit == self.max_length else [self.limit]
        found = []
        for length in dict.fromkeys(tried):
            kept = rows.kept_share(length)
            words = [f"trainer.max_length={length}"] if length != self.max_length else []
            words += ["data.overflow=drop"] if kept < 1 and not dropping else []
            words += rows.dropped_budget(length, budget)
            if kept and words:
                cut = self.count_truncated(length)[1] if overflow is Overflow.truncate else 0
                found.append(f"{' '.join(words)} keeps {_share(kept)}{f', {cut:,} of them cut' if cut else ''}")
        found += [] if dropping else self._truncating(budget)
        found = found or ["shorten the rows"]
        if self.context is not None and whole is None:
            found.append(f"the model takes at most {self.context:,} tokens")
        return "; ".join(found)

    def dropped_budget(self, max_length: int, budget: BudgetConfig) -> list[str]:
        """The setting that allows the loss of the rows longer than a length; none where it is allowed already."""
        lost = self.dropped_share(max_length)
        if budget.dropped is None or lost <= budget.dropped:
            return []
        return [f"data.budget.dropped={round_up_share(lost)}"]

    def _truncating(self, budget: BudgetConfig) -> list[str]:
        """The settings that truncate the rows that are too long, with the rows that they keep; none if they keep none.

        Args:
            budget: ``data.budget``.
        """
        length = self.limit
        used, cut = self.count_truncated(length)
        if not cut:
            return []
        words = [f"trainer.max_length={length}"] if length != self.max_length else []
        words.append(f"data.overflow={Overflow.truncate.value}")
        words += replace(self, tokens=self.min_lengths).dropped_budget(length, budget)
        if budget.truncated is not None and cut > budget.truncated * used:
            words.append(f"data.budget.truncated={round_up_share(cut / used)}")
        return [f"{' '.join(words)} keeps {_share(used / len(self.tokens))}, {cut:,} of them cut"]

    def count_truncated(self, max_length: int) -> tuple[int, int]:
        """Rows that truncation to a length keeps, and how many of them it cuts."""
        used = self.min_lengths <= max_length
        return int(used.sum()), int((used & (self.tokens > max_length)).sum())

    def uncut_advice(self, limit: float) -> str:
        """The ``trainer.max_length`` that truncates at most a share of the rows; empty if the model takes no such."""
        for length in (self.length_keeping(1 - limit), self.length_keeping(1.0), self.context):
            used, cut = self.count_truncated(length) if length is not None else (0, 0)
            if length is not None and length > self.max_length and cut <= limit * used + TOLERANCE:
                return f"trainer.max_length={length} cuts {f'{cut:,} of {used:,} rows' if cut else 'no row'}"
        return ""


def round_up_share(share: float) -> float:
    """The share with two digits that is not below it, at most 1."""
    digits = 1 - math.floor(math.log10(share))
    return min(1.0, round(math.ceil(share * 10**digits) / 10**digits, digits))


def _share(share: float) -> str:
    """``all rows``, or a share in per cent that is never rounded up to all."""
    return "all rows" if share == 1 else f"{math.floor(share * 1000) / 10:g}%"
