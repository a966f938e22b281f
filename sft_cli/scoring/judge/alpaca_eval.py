"""Read the verdicts that AlpacaEval publishes, and compute their raw win rate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError
from sft_cli.scoring.types import Item


@dataclass(frozen=True)
class AlpacaEvalRow:
    """One published verdict.

    Attributes:
        item: The instruction.
        answer: The answer of the model (``output_2``).
        baseline: The answer of the baseline (``output_1``).
        win: Probability that the model's answer is better; 0.5 for a tie; None without a verdict.
    """

    item: Item
    answer: str
    baseline: str
    win: float | None


def read_alpaca_eval(file: Path) -> list[AlpacaEvalRow]:
    """Return the rows of a file of annotations, JSON Lines or one JSON list.

    Raises:
        SftError: A row lacks a field, or its preference is not a number from 1 to 2, nor 0.
    """
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    return [_row(row, f"{file}:{number}", number) for number, row in enumerate(rows, 1)]


def preference_as_win(preference: float | None) -> float | None:
    """Return the probability of a win: preferences run from 1 (baseline) to 2 (model); 0 and 1.5 are ties."""
    if preference is None:
        return None
    return 0.5 if preference == 0 else preference - 1


def raw_win_rate(rows: Sequence[AlpacaEvalRow]) -> float:
    """Return the mean of the wins in percent, as the leaderboard's ``win_rate``."""
    wins = [row.win for row in rows if row.win is not None]
    return 100 * sum(wins) / len(wins)


def _row(row: dict[str, Any], where: str, number: int) -> AlpacaEvalRow:
    fields = ("instruction", "output_1", "output_2", "preference")
    if missing := [name for name in fields if name not in row]:
        fix = f"a row of AlpacaEval's annotations.json holds {', '.join(fields)}"
        raise SftError(where=where, problem=f"the row lacks {', '.join(missing)}", fix=fix)
    value = None if row["preference"] is None else float(row["preference"])
    if value is not None and not (value == 0 or 1 <= value <= 2):
        problem, fix = f"preference is {value:g}; it must be from 1 to 2, or 0 for a tie", "remove the row"
        raise SftError(where=where, problem=problem, fix=fix)
    item = Item(str(number), ({"role": "user", "content": row["instruction"]},), fields={"dataset": row.get("dataset")})
    return AlpacaEvalRow(item, row["output_2"], row["output_1"], preference_as_win(value))
