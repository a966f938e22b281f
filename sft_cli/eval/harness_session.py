"""Run tasks of lm-evaluation-harness on a model, and print their table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_cli.config.schema.config import Config
from sft_cli.console import say, table
from sft_cli.eval.evaluated import EvaluatedModel, ModelLabel
from sft_cli.eval.harness import run_tasks, task_manager, write_tasks
from sft_cli.eval.suite_session import engine_model, engine_settings
from sft_cli.model.head.loss_model import LossModel
from sft_cli.suites.score_table import metric_table


@dataclass(frozen=True, slots=True)
class HarnessOutcome:
    """The scores of one model by task, and their files."""

    scores: Mapping[str, Mapping[str, Any]]
    files: tuple[Path, ...] = ()


def run_harness(model: EvaluatedModel, config: Config, loss_model: LossModel, label: ModelLabel) -> HarnessOutcome:
    """Answer and score the chosen tasks, and write their scores; nothing without tasks.

    Args:
        model: The evaluated model.
        config: The config of the evaluation.
        loss_model: The weights; the caller enters autocast.
        label: Whether they are those of the model or of its base.
    """
    chosen = config.eval.lm_eval
    if not chosen.tasks:
        return HarnessOutcome({})
    scores = run_tasks(engine_model(model, config, loss_model), chosen, task_manager(chosen), config.eval.limit)
    identity = {
        "model": model.record(label),
        "generation": engine_settings(model, config),
        "limit": config.eval.limit,
    }
    return HarnessOutcome(scores, tuple(write_tasks(model.results, scores, chosen, identity)))


def print_tasks(tuned: HarnessOutcome, base: HarnessOutcome | None) -> None:
    """Print the table of the tasks, and where their scores are."""
    if tuned.scores:
        table(*metric_table(tuned.scores, base.scores if base else {}))
        for file in (*(base.files if base else ()), *tuned.files):
            say(f"results   {file}")
