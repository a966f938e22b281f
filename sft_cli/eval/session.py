"""Evaluate a run for `sft eval`: load its model, evaluate it (and the base, if requested), and write the report."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.console import counted, say
from sft_cli.errors import SftError
from sft_cli.eval import report
from sft_cli.eval.evaluate import SAMPLE_INDENT, Evaluation, evaluate_split, sample_lines
from sft_cli.eval.exact_match import count_truncated_answers, make_decoder
from sft_cli.eval.select_rows import EvalRows
from sft_cli.model.adapter.add import load_adapter
from sft_cli.model.device import ComputeSetup, choose_compute_setup
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.model.load import load_model, load_model_config
from sft_cli.model.quant import causal_lm
from sft_cli.progress import progress
from sft_cli.run_dir import RunDir

NUM_SAMPLES = 3
"""Number of questions that are printed with the answers of both models."""


def evaluate_run(run: RunDir, config: Config, rows: EvalRows, name: str, *, compare: bool) -> None:
    """Evaluate a finished run, write ``eval/<name>.json`` and print a table.

    Args:
        run: The run.
        config: Its config with the overrides of the command line.
        rows: The rows to evaluate on.
        name: Name of the report.
        compare: Whether to evaluate the base model as well.
    """
    from peft import PeftModel  # imported after sft_cli.model, which silences a warning

    machine = choose_compute_setup(config.trainer, load_model_config(config.model), full=config.adapter.kind in WHOLE)
    stops, decode = read_stop_ids(run), make_decoder(load_tokenizer(str(run.result)))

    def evaluate_model(model: nn.Module, label: str) -> Evaluation:
        """Compute the losses and the answers of a model."""
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
                decode=decode,
                stop_ids=stops,
                loss_progress=losses.update,
                answer_progress=answered.update,
            )

    model, base = load_tuned(run, config, machine), None
    tuned = evaluate_model(model, "tuned")
    if compare and isinstance(model, PeftModel):
        with model.disable_adapter():
            # Without the PEFT wrapper, which would still count the vectors of prompt tuning and prevent packing.
            base = evaluate_model(causal_lm(model), "base")
    elif compare:
        del model  # two models may not fit into memory
        base = evaluate_model(load_base(run, config, machine), "base")
    if config.eval.generate:
        _explain_unanswered(tuned, count_truncated_answers(rows.split, stops))
    _print_results(tuned, base)
    _write_report(run.eval / f"{name}.json", report.build_report(name, run, rows, config, tuned, base))


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


def load_base(run: RunDir, config: Config, machine: ComputeSetup) -> PreTrainedModel:
    """Load the base model as training did, with the initial embeddings of added tokens."""
    added = added_ids(load_tokenizer(str(run.result)), config.model.add_tokens)
    return _load_model(config, machine, added)


def _load_model(config: Config, machine: ComputeSetup, added: Sequence[int] = ()) -> PreTrainedModel:
    full = config.adapter.kind in WHOLE
    return load_model(
        config.model, config.quant, full=full, device=machine.device, compute_dtype=machine.dtype, added_ids=added
    )


def load_tuned(run: RunDir, config: Config, machine: ComputeSetup) -> nn.Module:
    """Load the trained model: the base with the run's adapter, or the run's own weights."""
    if config.adapter.kind in WHOLE:
        model_config = replace(config.model, path=str(run.result), revision=None)
        return _load_model(replace(config, model=model_config), machine)  # with trained embeddings of added tokens
    return load_adapter(load_base(run, config, machine), run.result, machine.device)


def read_stop_ids(run: RunDir) -> list[int]:
    """Read the tokens that end an answer from the run's generation config.

    Raises:
        SftError: There is no stop token.
    """
    file = run.result / "generation_config.json"
    value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    stop_ids = [value] if isinstance(value, int) else value
    if not stop_ids:
        raise SftError(
            where=str(file),
            problem="it contains no stop token (eos_token_id)",
            fix="train again, or add the ids of the stop tokens to it",
        )
    return stop_ids
