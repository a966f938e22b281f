"""The suites that a config chooses."""

from dataclasses import replace
from pathlib import Path

from sft_cli.config.schema.config import Config, EvalConfig
from sft_cli.config.schema.suites import SuiteKind
from sft_cli.errors import SftError
from sft_cli.scoring.types import Scorer
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.questions import questions_suite
from sft_cli.suites.scorers import suite_scorer
from sft_cli.suites.texts import load_any_suite


def evaluates_heldout(config: EvalConfig) -> bool:
    """Return whether held-out rows are evaluated: by a suite of that kind, or because nothing is chosen."""
    if not config.suites:
        return not config.lm_eval.tasks
    return any(suite.kind is SuiteKind.heldout for suite in config.suites.values())


def chosen_suites(config: EvalConfig) -> list[LoadedSuite]:
    """Return the chosen suites with their items, except those of the run's own rows; each has a scorer.

    Raises:
        SftError: A suite cannot be loaded or scored.
    """
    found = []
    for name, suite in config.suites.items():
        if suite.kind in (SuiteKind.heldout, SuiteKind.memorisation):
            continue
        scorer = suite_scorer(name, suite) if suite.kind is SuiteKind.generate else None
        loaded = load_any_suite(name, suite, config.data_dir, config.limit)
        if scorer is not None:
            _check_items(scorer, loaded)
        found.append(loaded)
    return found


def _check_items(scorer: Scorer, suite: LoadedSuite) -> None:
    """Let the scorer check the items; its error names the file and line of an item."""
    try:
        scorer.check_items(entry.item for entry in suite.items)
    except SftError as error:
        lines = {f"item {entry.item.id}": entry.where for entry in suite.items}
        if error.where not in lines:
            raise
        raise SftError(where=lines[error.where], problem=error.problem, fix=error.fix) from error


def with_questions(config: Config, file: str) -> Config:
    """Return the config with the questions of a file as its only suite, unless suites were chosen as well."""
    name, suite = questions_suite(Path(file))
    others = {name: other for name, other in config.eval.suites.items() if other.kind is not SuiteKind.heldout}
    return replace(config, eval=replace(config.eval, suites={**others, name: suite}))
