"""How long rows are, and which ``trainer.max_length`` keeps how many of them: measured, for advice that works."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.paths import resolve

STEP = 64
"""Advised lengths are multiples of this."""
MOST = 0.99
"""Share of the rows that is worth keeping where the rest is far longer."""
ROUNDING = 1e-6
"""Rows; 0.99 of 100 are 99, whatever floating-point numbers say."""
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""What models call the most tokens they take."""


@dataclass(frozen=True)
class Lengths:
    """The rows of a run that were encoded.

    Attributes:
        tokens: ``(rows,)`` tokens of the longest example of each row.
        others: Rows that are lost for other reasons.
        max_length: ``trainer.max_length``.
        context: Most tokens the model takes; None if that is not known.
        first: Place of the first row that is too long; None if none is.
        longest: Place of the longest row.
    """

    tokens: NDArray[np.int64]
    others: int
    max_length: int
    context: int | None
    first: str | None
    longest: str

    @property
    def too_long(self) -> int:
        """Rows longer than ``max_length``."""
        return int((self.tokens > self.max_length).sum())

    def told(self) -> str:
        """``12 of 300 rows are longer than trainer.max_length=512; the longest has 1,900 tokens (rows.jsonl:17)``."""
        are = "row is" if len(self.tokens) == 1 else "rows are"
        return (
            f"{self.too_long:,} of {len(self.tokens):,} {are} longer than trainer.max_length={self.max_length};"
            f" the longest has {int(self.tokens.max()):,} tokens ({self.longest})"
        )

    def enough(self, share: float) -> int | None:
        """The shortest advised length that keeps a share of the rows; None if the model cannot take it."""
        number = math.ceil(share * len(self.tokens) - ROUNDING)
        wanted = int(np.sort(self.tokens)[number - 1])
        if self.context is not None and wanted > self.context:
            return None
        length = math.ceil(wanted / STEP) * STEP
        return length if self.context is None else min(length, self.context)

    def kept(self, max_length: int) -> float:
        """Share of the rows that a length keeps."""
        return float((self.tokens <= max_length).mean())

    def lost(self, max_length: int) -> float:
        """Share of all rows that are dropped where those longer than a length are."""
        return (int((self.tokens > max_length).sum()) + self.others) / (len(self.tokens) + self.others)

    def advice(self, budget: float | None, dropping: bool) -> str:
        """Settings that pass, with the share of the rows that each keeps.

        Args:
            budget: ``data.budget.dropped``.
            dropping: Whether rows that are too long are dropped already.
        """
        whole, most = self.enough(1.0), self.enough(MOST)
        tried = [whole] if whole is not None else []
        tried += [most] if most is not None else []
        tried += [self.context] if whole is None and self.context is not None else []
        tried += [] if dropping else [self.max_length]
        found = []
        for length in dict.fromkeys(tried):
            kept = self.kept(length)
            words = [f"trainer.max_length={length}"] if length != self.max_length else []
            words += ["data.overflow=drop"] if kept < 1 and not dropping else []
            if budget is not None and self.lost(length) > budget:
                words.append(f"data.budget.dropped={rounded_up(self.lost(length))}")
            if kept and words:
                found.append(f"{' '.join(words)} keeps {'all rows' if kept == 1 else _percent(kept)}")
        found = found or ["shorten the rows"]
        if self.context is not None and whole is None:
            found.append(f"the model takes at most {self.context:,} tokens")
        return "; ".join(found)


def rounded_up(share: float) -> float:
    """The share with two digits that is not below it, at most 1."""
    digits = 1 - math.floor(math.log10(share))
    return min(1.0, round(math.ceil(share * 10**digits) / 10**digits, digits))


def _percent(share: float) -> str:
    """A share that is not all, in per cent, never rounded up to all."""
    return f"{math.floor(share * 1000) / 10:g}%"


def context_of(model: str | None) -> int | None:
    """Most tokens the model takes, as the config.json of a local directory says; None where that is not known."""
    if model is None:
        return None
    try:
        found: Any = json.loads((Path(resolve(model)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sections = [found, found.get("text_config")] if isinstance(found, dict) else []
    values = [section.get(name) for section in sections if isinstance(section, dict) for name in CONTEXT]
    return next((value for value in values if isinstance(value, int) and value > 0), None)
