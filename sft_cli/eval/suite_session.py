"""Run suites on a model, write their results, and print the table of all suites."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sft_cli.chat.template import server
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.suites import Compat, SuiteKind
from sft_cli.console import counted, say, table
from sft_cli.distributed.process_group import current_world
from sft_cli.errors import SftError
from sft_cli.eval.engine.local import EngineModel, local_answers
from sft_cli.eval.engine.prompts import ServedPrompts
from sft_cli.eval.engine.run import AnswerItems, run_suite
from sft_cli.eval.evaluate import SAMPLE_INDENT
from sft_cli.eval.evaluated import EvaluatedModel, ModelLabel
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model_config
from sft_cli.progress import progress
from sft_cli.scoring.types import Answer, Item
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.limits import EvalLimits
from sft_cli.suites.results import SuiteResults, open_results
from sft_cli.suites.score_table import metric_table
from sft_cli.suites.scorers import UNSCORED
from sft_cli.suites.scores import answered_items, score_suite
from sft_cli.suites.shown import answer_lines
from sft_cli.suites.variant_scores import VARIANT_COLUMNS, variant_rows

HELD_OUT = "heldout"
"""Name of the held-out rows in the table of suites."""


@dataclass(frozen=True, slots=True)
class SuiteOutcome:
    """The scores of one suite and model.

    Attributes:
        suite: The suite.
        results: Its directory.
        scores: Content of scores.json.
        stopped: The limit that stopped it; empty if every item has its answers.
    """

    suite: LoadedSuite
    results: SuiteResults
    scores: Mapping[str, Any]
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class SuiteEngine:
    """What answers the items of suites, and what identifies its answers.

    Attributes:
        label: Which model it is.
        answer: Answers items.
        model: What identifies the model.
        settings: The settings beyond those of a suite that the answers depend on.
        results: Directory of the results.
    """

    label: ModelLabel
    answer: AnswerItems
    model: Mapping[str, str]
    settings: Mapping[str, Any]
    results: Path


def run_suites(engine: SuiteEngine, suites: Sequence[LoadedSuite], limits: EvalLimits) -> Iterator[SuiteOutcome]:
    """Answer and score each suite; answers of an earlier run with the same settings are kept.

    Args:
        engine: What answers; the caller enters autocast.
        suites: The suites with their items.
        limits: What is left of tokens, time and cost.
    """
    world = current_world()
    for suite in suites:
        open_them = partial(open_results, engine.results, suite, engine.model, engine.settings)
        results = world.run_on_main(open_them)
        unit = "items" if suite.config.samples == 1 else "answers"
        with progress(f"{engine.label} {suite.name}", unit=unit) as shown:
            try:
                stopped = run_suite(engine.answer, suite, results, limits, shown)
            except SftError as error:
                raise _with_kept(error, results) from error
        scores = world.run_on_main(partial(score_results, suite, results))
        yield SuiteOutcome(suite, results, scores, stopped)


def _with_kept(error: SftError, results: SuiteResults) -> SftError:
    """Return an error that also states which answers are kept."""
    kept = len(results.read_answers())
    if not kept:
        return error
    problem = f"{error.problem}; {counted(kept, 'answer')} kept in {results.answers}"
    return SftError(where=error.where, problem=problem, fix=error.fix)


def score_results(suite: LoadedSuite, results: SuiteResults) -> Mapping[str, Any]:
    """Score the answers on disk, write verdicts and scores, and return the scores."""
    scored = score_suite(suite, results.read_answers())
    results.write_scores(scored.verdicts, scored.scores)
    return scored.scores


def local_engine(model: EvaluatedModel, config: Config, loss_model: LossModel, label: ModelLabel) -> SuiteEngine:
    """Return a model in this process as the engine of suites.

    Args:
        model: The evaluated model.
        config: The config of the evaluation.
        loss_model: The weights.
        label: Whether they are those of the model or of its base.
    """
    return SuiteEngine(
        label,
        local_answers(engine_model(model, config, loss_model)),
        model.record(label),
        engine_settings(model, config),
        model.results,
    )


def engine_model(model: EvaluatedModel, config: Config, loss_model: LossModel) -> EngineModel:
    """Return the engine's view of a model."""
    tokenizer = server.load_server_tokenizer(
        model.tokenizer, load_model_config(model.architecture), trust_remote_code=config.model.trust_remote_code
    )
    return EngineModel(
        model=loss_model.model,
        loss_model=loss_model,
        prompts=ServedPrompts(tokenizer, model.stop_ids, config.template.variables),
        stop_ids=model.stop_ids,
        max_tokens=resolved(config.speed.tokens_per_micro_batch),
        batch_size=config.eval.batch_size,
        max_new_tokens=config.eval.max_new_tokens,
    )


def engine_settings(model: EvaluatedModel, config: Config) -> dict[str, Any]:
    """Return the settings beyond those of a suite that its answers depend on."""
    return {
        "default_max_new_tokens": config.eval.max_new_tokens,
        "stop_ids": list(model.stop_ids),
        "dtype": config.trainer.dtype.value,
        "template_variables": dict(config.template.variables),
        "tokenizer": model.tokenizer_digest(),
    }


def suite_answers(outcomes: Sequence[SuiteOutcome]) -> list[tuple[Item, Answer]]:
    """Return the items of all suites whose answers were generated, with their answers."""
    generated = [one for one in outcomes if one.suite.config.kind is SuiteKind.generate]
    return [pair for one in generated for pair in answered_items(one.suite, one.results.read_answers())]


def print_outcomes(
    tuned: Sequence[SuiteOutcome],
    base: Sequence[SuiteOutcome] = (),
    heldout: Mapping[str, Any] | None = None,
    base_heldout: Mapping[str, Any] | None = None,
) -> None:
    """Print the table of all suites, what stopped them, and where their results are.

    Args:
        tuned: The results of the trained model.
        base: Those of the base model.
        heldout: The scores of the trained model on held-out rows, in the form of those of a suite.
        base_heldout: Those of the base model.
    """
    if not tuned:
        return
    rows, base_rows = ({HELD_OUT: found} if found else {} for found in (heldout, base_heldout))
    table(
        *metric_table(
            {**rows, **{one.suite.name: one.scores for one in tuned}},
            {**base_rows, **{one.suite.name: one.scores for one in base}},
        )
    )
    for label, outcomes in {"base": base, "tuned": tuned}.items():
        if rows := variant_rows({one.suite.name: one.scores for one in outcomes}):
            say(f"variants  {label}: drop is the score of the plain questions less that of the same in a variant")
            table(VARIANT_COLUMNS, rows)
    for one in tuned:
        if one.suite.config.scorers == [UNSCORED]:
            models = {"base": [*base], "answer" if not base else "tuned": [*tuned]}
            answers = {
                label: [record for other in found if other.suite.name == one.suite.name
                        for record in other.results.read_answers()]
                for label, found in models.items()
            }  # fmt: skip
            for line in answer_lines(one.suite, answers):
                say(line, indent=SAMPLE_INDENT)
    if any(one.suite.config.compat is Compat.lm_eval for one in tuned):
        say(
            "note      acc and acc_norm are as served; lm_eval_ figures move white space at the end of the prompt into"
            " the answer, as lm-evaluation-harness does"
        )
    for one in (*tuned, *base):
        counts, name = one.scores["counts"], one.suite.name
        if base:
            name += " (base)" if any(one is other for other in base) else " (tuned)"
        if one.stopped:
            left = counted(counts["items"] - counts["answered"], "item")
            say(f"stopped   {name}: {one.stopped} is reached, {left} not answered; the same command continues")
        if counts.get("cut") and one.suite.config.kind is SuiteKind.generate:
            say(f"warning: {name}: {counted(counts['cut'], 'answer')} cut at the end of the model's context")
        expected = one.suite.config.items
        if expected is not None and one.suite.total != expected:
            say(f"warning: {one.suite.origin} has {one.suite.total:,} items, the published data {expected:,}")
    for one in (*base, *tuned):
        say(f"results   {one.results.path}")
