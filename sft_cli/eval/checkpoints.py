"""The evaluations of checkpoints: ``eval/checkpoints.json`` and the table of all steps. Does not import torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sft_cli import __version__
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import to_plain
from sft_cli.errors import SftError
from sft_cli.scoring.statistics import interval_text
from sft_cli.suites.items import LoadedSuite
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import blake2b_of_file, json_digest
from sft_cli.utils.mappings import nan_to_none

LOSS, BASE = "loss", "base"
BEST_MARK = " *"
"""Text after the lowest loss and after the highest value of each score."""

Figure = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckpointScores:
    """The scores of one checkpoint, or of the base model.

    Attributes:
        step: The step of the checkpoint; None for the base model.
        settings: Digest of all that the scores depend on except the weights.
        weights: Digest of the weights.
        heldout: Scores on the held-out rows, such as ``loss``; empty if they were not evaluated.
        suites: The metrics of each suite with their intervals, by suite and metric.
        results: The directory of the answers of each suite.
        complete: Whether every item was answered; a limit may have stopped a suite.
        beyond_limits: The values that are beyond ``eval.limits``, as text.
    """

    step: int | None
    settings: str
    weights: str
    heldout: Mapping[str, float | None]
    suites: Mapping[str, Mapping[str, Figure]]
    results: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    beyond_limits: Sequence[str] = field(default_factory=list)


class CheckpointFile:
    """``eval/checkpoints.json``: the scores of checkpoints, also those of other settings."""

    def __init__(self, file: Path) -> None:
        """Read the file, if there is one.

        Raises:
            SftError: It is damaged.
        """
        self.file = file
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))["checkpoints"] if file.is_file() else []
            self._entries = [CheckpointScores(**entry) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            fix = "remove it, and run the same command again: answers that exist are kept"
            raise SftError(where=str(file), problem="the file is damaged", fix=fix) from error

    def find(self, step: int | None, settings: str, weights: str) -> CheckpointScores | None:
        """Return the complete scores of a step with the same settings and weights; None without them."""
        same = (one for one in self._of(settings) if one.step == step and one.weights == weights and one.complete)
        return next(same, None)

    def add(self, scores: CheckpointScores) -> None:
        """Add the scores of a step in place of earlier ones with the same settings, and write the file."""
        key = (scores.step, scores.settings)
        self._entries = [one for one in self._entries if (one.step, one.settings) != key] + [scores]
        self._entries.sort(key=lambda one: (one.settings, -1 if one.step is None else one.step))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {"sft_cli": __version__, "checkpoints": [nan_to_none(asdict(one)) for one in self._entries]}
        write_atomic(self.file, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")

    def rows(self, settings: str, steps: Sequence[int], *, with_base: bool) -> list[CheckpointScores]:
        """Return the scores of some steps with these settings, the base model first."""
        wanted = {*steps, *([None] if with_base else [])}
        return [one for one in self._of(settings) if one.step in wanted]

    def _of(self, settings: str) -> Iterator[CheckpointScores]:
        return (one for one in self._entries if one.settings == settings)


def settings_digest(config: Config, rows: str | None, suites: Sequence[LoadedSuite]) -> str:
    """Return a digest of all that the scores of a checkpoint depend on except its weights.

    Args:
        config: The config of the evaluation.
        rows: Name of the report of the held-out rows with the fingerprint of the rows; None without them.
        suites: The suites with their items.
    """
    chosen = to_plain(config.eval)
    items = [[one.name, one.fingerprint, json_digest([entry.item.id for entry in one.items])] for one in suites]
    return json_digest([__version__, rows, chosen, items, config.trainer.dtype.value])


def weights_digest(directory: Path) -> str:
    """Return a digest of the weights of an adapter or a model."""
    files = sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")])
    return json_digest([[file.name, blake2b_of_file(file)] for file in files])


def checkpoint_table(scores: Sequence[CheckpointScores]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of the table: one row for each step.

    The lowest held-out loss and the highest value of each score among the steps are marked; the base is not ranked.
    """
    metrics = list(dict.fromkeys((suite, name) for one in scores for suite in one.suites for name in one.suites[suite]))
    steps = [one for one in scores if one.step is not None]
    columns, cells = ["step"], [[BASE if one.step is None else str(one.step)] for one in scores]
    losses = [(one.step, loss) for one in steps if (loss := one.heldout.get(LOSS)) is not None]
    if any(LOSS in one.heldout for one in scores):
        best = min(losses, key=lambda pair: pair[1])[0] if losses else None
        columns.append("held-out loss")
        for row, one in zip(cells, scores, strict=True):
            loss = one.heldout.get(LOSS)
            row.append("" if loss is None else f"{loss:.4f}{_mark(one, best)}")
    for suite, name in metrics:
        values = [(one.step, value) for one in steps if (value := _value(one, suite, name)) is not None]
        best = max(values, key=lambda pair: pair[1])[0] if len(values) > 1 else None
        columns.append(f"{suite}.{name}")
        for row, one in zip(cells, scores, strict=True):
            figure = one.suites.get(suite, {}).get(name)
            row.append("" if figure is None else f"{_figure_text(figure)}{_mark(one, best)}")
    return columns, cells


def _mark(one: CheckpointScores, best: int | None) -> str:
    return BEST_MARK if best is not None and one.step == best else ""


def _value(one: CheckpointScores, suite: str, name: str) -> float | None:
    return one.suites.get(suite, {}).get(name, {}).get("value")


def _figure_text(figure: Figure) -> str:
    """Return a value with its interval as text."""
    interval = interval_text(figure["low"], figure["high"])
    value = "" if figure["value"] is None else f"{figure['value']:.4g}"
    return f"{value} ({interval})" if interval else value
