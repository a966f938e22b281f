"""Evaluate a model for `sft eval`: load it, evaluate it (and its base, if requested), and write the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.config.schema.fields import resolved
from sft_cli.console import counted, say, table
from sft_cli.distributed.process_group import current_world
from sft_cli.eval import report
from sft_cli.eval.drift import heldout_answers, print_drift
from sft_cli.eval.evaluate import SAMPLE_INDENT, Evaluation, evaluate_split, sample_lines
from sft_cli.eval.evaluated import EvaluatedModel, ModelLabel
from sft_cli.eval.exact_match import count_truncated_answers, make_decoder
from sft_cli.eval.failure import failure_warning
from sft_cli.eval.harness_session import HarnessOutcome, print_tasks, run_harness
from sft_cli.eval.heldout_groups import example_tags
from sft_cli.eval.heldout_scores import group_table, heldout_scores, write_heldout_scores
from sft_cli.eval.select_rows import EvalRows
from sft_cli.eval.suite_session import SuiteOutcome, local_engine, print_outcomes, run_suites, suite_answers
from sft_cli.model.adapter.add import load_adapter
from sft_cli.model.device import ComputeSetup, choose_compute_setup
from sft_cli.model.head.loss_model import LossModel, build_loss_model
from sft_cli.model.load import load_model, load_model_config
from sft_cli.model.quant import causal_lm
from sft_cli.progress import progress
from sft_cli.scoring.types import Answer, Item
from sft_cli.suites.items import LoadedSuite
from sft_cli.suites.limits import EvalLimits

NUM_SAMPLES = 3
"""Number of questions that are printed with the answers of both models."""


@dataclass(frozen=True, slots=True)
class NamedRows:
    """The rows to evaluate on, and the name of their report."""

    rows: EvalRows
    name: str


@dataclass(frozen=True, slots=True)
class ModelResults:
    """The results of one model: on the rows, if there are any, and on the suites."""

    heldout: Evaluation | None
    suites: tuple[SuiteOutcome, ...]
    tasks: HarnessOutcome


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """The results of a model, and of its base if it was evaluated; what is beyond ``eval.limits``, as text."""

    tuned: ModelResults
    base: ModelResults | None
    beyond_limits: list[str]


def evaluate_model(
    model: EvaluatedModel,
    config: Config,
    heldout: NamedRows | None,
    suites: Sequence[LoadedSuite] = (),
    *,
    compare: bool,
) -> ModelEvaluation:
    """Evaluate a model, write ``<name>.json`` and the results of each suite, and print tables.

    Args:
        model: The model.
        config: The config of the evaluation.
        heldout: The rows to evaluate on; None to run only suites.
        suites: The suites with their items.
        compare: Whether to evaluate the base model as well.

    Returns:
        The results; what is beyond ``eval.limits`` only in the first process, which prints.
    """
    from peft import PeftModel  # imported after sft_cli.model, which silences a warning

    machine = choose_compute_setup(config.trainer, load_model_config(model.architecture), full=model.full)
    world = current_world()
    limits = EvalLimits.from_config(config.eval, world.size)

    def results_of(weights: nn.Module, label: ModelLabel) -> ModelResults:
        """Evaluate weights on the rows and the suites."""
        loss_model = packed_loss_model(weights, label, config, machine)
        on_rows = None if heldout is None else _evaluate_rows(model, config, machine, heldout.rows, loss_model, label)
        with machine.precision():
            outcomes = _run_suites(model, config, suites, loss_model, label, limits)
            # The harness shares nothing: its tasks run in one process.
            tasks = run_harness(model, config, loss_model, label) if world.is_main else HarnessOutcome({})
            return ModelResults(on_rows, outcomes, tasks)

    weights, base = load_evaluated(model, config, machine), None
    tuned = results_of(weights, model.label)
    if compare and isinstance(weights, PeftModel):
        with weights.disable_adapter():
            # Without the PEFT wrapper, which would still count the vectors of prompt tuning and prevent packing.
            base = results_of(causal_lm(weights), "base")
    elif compare:
        del weights  # two models may not fit into memory
        base = results_of(load_base(model, config, machine), "base")
    if not world.is_main:
        return ModelEvaluation(tuned, base, [])
    if heldout is not None:
        _report_rows(model, config, heldout, tuned, base)
    print_outcomes(
        tuned.suites,
        base.suites if base else (),
        heldout_scores(tuned.heldout) if tuned.heldout else None,
        heldout_scores(base.heldout) if base and base.heldout else None,
    )
    print_tasks(tuned.tasks, base.tasks if base else None)
    beyond = print_drift(_all_answers(tuned), _all_answers(base) if base else (), config.eval.limits)
    return ModelEvaluation(tuned, base, beyond)


def _run_suites(
    model: EvaluatedModel,
    config: Config,
    suites: Sequence[LoadedSuite],
    loss_model: LossModel,
    label: ModelLabel,
    limits: EvalLimits,
) -> tuple[SuiteOutcome, ...]:
    """Run the suites on weights; without suites nothing is loaded for them."""
    return tuple(run_suites(local_engine(model, config, loss_model, label), suites, limits)) if suites else ()


def _all_answers(results: ModelResults) -> list[tuple[Item, Answer]]:
    """Return everything that a model answered: held-out prompts and items of suites."""
    rows = heldout_answers(results.heldout) if results.heldout else []
    return [*rows, *suite_answers(results.suites)]


def packed_loss_model(model: nn.Module, label: str, config: Config, machine: ComputeSetup) -> LossModel:
    """Return the model with its loss, packed if that is correct."""
    with machine.precision():
        loss_model, probed = build_loss_model(
            model,
            config.speed.logits_chunk,
            share_prefixes=config.speed.share_prefixes,
            packing=config.speed.packing,
            row_tokens=resolved(config.speed.tokens_per_micro_batch),
            longest=config.trainer.max_length,
        )
    if not probed.packed_ok:
        say(f"packing   off for the {label} model, one example per row: {probed.reason}")
    return loss_model


def _evaluate_rows(
    model: EvaluatedModel, config: Config, machine: ComputeSetup, rows: EvalRows, loss_model: LossModel, label: str
) -> Evaluation:
    """Compute the losses and the answers of a model."""
    with (
        machine.precision(),
        progress(f"{label} loss", unit="examples") as losses,
        progress(f"{label} answers", unit="prompts") as answered,
    ):
        return evaluate_split(
            loss_model,
            rows.split,
            config.eval,
            reduction=config.loss.reduction,
            max_tokens=resolved(config.speed.tokens_per_micro_batch),
            decode=make_decoder(load_tokenizer(str(model.tokenizer))),
            stop_ids=model.stop_ids,
            tags=example_tags(rows.directory, rows.split),
            loss_progress=losses.update,
            answer_progress=answered.update,
        )


def _report_rows(
    model: EvaluatedModel,
    config: Config,
    heldout: NamedRows,
    tuned_results: ModelResults,
    base_results: ModelResults | None,
) -> None:
    """Print the results on the rows, and write their report."""
    tuned, base = tuned_results.heldout, base_results.heldout if base_results else None
    assert tuned is not None
    if config.eval.generate:
        _explain_unanswered(tuned, count_truncated_answers(heldout.rows.split, model.stop_ids))
    _print_results(tuned, base)
    columns, rows = group_table(tuned.metrics, base.metrics if base else None)
    if rows:
        table(columns, rows)
    for label, result in ((model.label, tuned), ("base", base)):
        if result is not None:
            write_heldout_scores(model.results, heldout.name, label, result)
    if (warning := failure_warning(tuned.expected, tuned.texts, config)) is not None:
        say(f"warning: {warning}")
    values = report.build_report(heldout.name, model.name, heldout.rows, config, tuned, base)
    _write_report(model.results / f"{heldout.name}.json", values)


def _write_report(file: Path, values: dict[str, Any]) -> None:
    """Write a report that keeps the base's scores of an earlier one, and print its path."""
    report.write_eval_report(report.keep_base_scores(values, file), file)
    say(f"report    {file}")


def _print_results(tuned: Evaluation, base: Evaluation | None) -> None:
    """Print the table of scores, and some answers of both models if the base was evaluated."""
    report.print_scores(tuned.metrics, base.metrics if base else None)
    if base is not None:
        results = {"base": base, "tuned": tuned}
        answers = {name: [answer.text for answer in result.answers] for name, result in results.items()}
        for line in sample_lines(tuned.items, answers, NUM_SAMPLES):
            say(line, indent=SAMPLE_INDENT)


def _explain_unanswered(tuned: Evaluation, cut: int) -> None:
    """Print why some examples have no question; truncation cut the reference answer of ``cut`` of them."""
    if cut:
        say(f"answers   {counted(cut, 'example')} not answered: data.overflow=truncate cut the reference answer")
    elif not tuned.items:
        say("answers   none: every example is trained as a whole, without a prompt; loss and perplexity only")


def load_base(model: EvaluatedModel, config: Config, machine: ComputeSetup) -> PreTrainedModel:
    """Load the base as training did, with the initial embeddings of added tokens."""
    assert model.base is not None
    return _load_weights(model, model.base, config, machine, model.added_ids)


def load_evaluated(model: EvaluatedModel, config: Config, machine: ComputeSetup) -> nn.Module:
    """Load the model: the base with its adapter, or the whole model."""
    if model.adapter is None:
        assert model.whole is not None
        return _load_weights(model, model.whole, config, machine)
    return load_adapter(load_base(model, config, machine), model.adapter, machine.device)


def _load_weights(
    model: EvaluatedModel, weights: ModelConfig, config: Config, machine: ComputeSetup, added: Sequence[int] = ()
) -> PreTrainedModel:
    """Load a model without an adapter."""
    return load_model(
        weights,
        config.quant,
        full=model.full,
        device=machine.device,
        compute_dtype=machine.dtype,
        added_ids=added,
    )
