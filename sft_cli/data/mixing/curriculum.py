"""Build the stages of an epoch as lists of examples, and save and load them with the prepared rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import Order
from sft_cli.data.mixing import content_order
from sft_cli.data.mixing.epoch_draw import EpochDraw, Pool, StageDraw
from sft_cli.data.row_errors import damaged_data_fix
from sft_cli.errors import SftError

DIRECTORY = "stages"
"""Directory of the stages in a prepared directory: index.json, and one 0.npy, 1.npy, … per stage."""


@dataclass(frozen=True, eq=False, slots=True)
class Stage:
    """One stage of an epoch.

    Attributes:
        name: For messages.
        order: ``random``: the trainer permutes the entries in every epoch; otherwise they are in training order.
        entries: ``(entries,)`` int64 numbers of examples of the training split, including repeats.
    """

    name: str
    order: Order
    entries: NDArray[np.int64]

    def content(self) -> list[str]:
        """Return the order and a digest of the entries, which decide the steps of a run."""
        return [self.order.value, hashlib.sha256(self.entries.tobytes()).hexdigest()]


def build_stages(
    draw: EpochDraw, pools: Sequence[Pool], example_start: NDArray[np.int64], lengths: NDArray[np.int64], seed: int
) -> list[Stage]:
    """Return the stages of a draw; a row gives all of its examples, in order.

    Stages by length or difficulty are sorted in ascending order, by the length of an example or the score of its row;
    ties are broken by a seeded hash of the row.

    Args:
        draw: Copies of every row.
        pools: The pools of the draw; rows are numbered consecutively over all pools.
        example_start: ``(rows + 1,)``: the examples of row i are ``example_start[i]`` to ``example_start[i + 1] - 1``.
        lengths: ``(examples,)`` tokens.
        seed: Breaks ties.

    Raises:
        SftError: A row lacks the score that its stage is ordered by.
    """
    stages = []
    for stage in draw.stages:
        rows = np.repeat(np.arange(len(example_start) - 1), np.concatenate(stage.copies))
        count = example_start[rows + 1] - example_start[rows]
        entries = np.repeat(example_start[rows] - (np.cumsum(count) - count), count) + np.arange(count.sum())
        if stage.order is not Order.random:
            row_of = np.repeat(rows, count)
            positions = content_order.shuffled_positions(np.concatenate([pool.keys for pool in pools]), seed, "stage")[
                row_of
            ]
            value = lengths[entries] if stage.order is Order.by_length else _difficulty_scores(stage, pools)[row_of]
            entries = entries[np.lexsort((positions, value))]
        stages.append(Stage(stage.name, stage.order, entries))
    return stages


def _difficulty_scores(stage: StageDraw, pools: Sequence[Pool]) -> NDArray[np.float64]:
    """Return ``(rows,)`` scores of all rows; those of rows in the stage are not nan."""
    values = []
    for pool, copies in zip(pools, stage.copies, strict=True):
        value = pool.scores.get(stage.difficulty, np.full(len(copies), np.nan))
        if missing := int(np.count_nonzero(np.isnan(value[copies > 0]))):
            raise SftError(
                where=f"data.stages, stage {stage.name}",
                problem=f"{missing} of the {np.count_nonzero(copies):,} rows of the stage from {pool.name} have no "
                f"score {stage.difficulty!r}, which orders it",
                fix=f"set the column of the score: data.mix.{pool.name}.scores.{stage.difficulty}=COLUMN",
            )
        values.append(value)
    return np.concatenate(values)


def save_stages(stages: Sequence[Stage], directory: Path) -> None:
    """Write the stages into a prepared directory."""
    folder = directory / DIRECTORY
    folder.mkdir()
    index = []
    for number, stage in enumerate(stages):
        np.save(folder / f"{number}.npy", stage.entries.astype(np.int64), allow_pickle=False)
        index.append({"name": stage.name, "order": stage.order.value, "entries": len(stage.entries)})
    (folder / "index.json").write_text(json.dumps(index, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def load_stages(directory: Path, num_examples: int) -> list[Stage]:
    """Return the stages of a prepared directory, memory-mapped.

    Raises:
        SftError: The stages are not those that ``sft prepare`` wrote for this number of examples.
    """
    folder = directory / DIRECTORY
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        stages = [
            Stage(entry["name"], Order(entry["order"]), np.load(folder / f"{number}.npy", "r", allow_pickle=False))
            for number, entry in enumerate(index)
        ]
        sizes = [entry["entries"] for entry in index]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, folder, f"the stages cannot be read ({error})") from error
    for number, (stage, size) in enumerate(zip(stages, sizes, strict=True)):
        entries = stage.entries
        if entries.dtype != np.int64 or entries.shape != (size,):
            raise _damaged(directory, folder / f"{number}.npy", f"the file does not hold {size} numbers of examples")
        if size and not 0 <= entries.min() <= entries.max() < num_examples:
            raise _damaged(
                directory, folder / f"{number}.npy", f"the file names examples beyond the last of {num_examples}"
            )
    return stages


def _damaged(directory: Path, file: Path, problem: str) -> SftError:
    """Return the error for damaged stages."""
    return SftError(where=str(file), problem=problem, fix=damaged_data_fix(directory))
