"""One `sft eval`: load the run's model, evaluate it, and the base where asked, and write the report."""

import json
from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from sft_cli.chat.tokens.added_tokens import added_ids
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.adapter import WHOLE
from sft_cli.config.schema.config import Config
from sft_cli.console import counted, progress, say
from sft_cli.errors import SftError
from sft_cli.eval import report
from sft_cli.eval.evaluate import SAMPLE_INDENT, Evaluation, evaluate, sample_lines
from sft_cli.eval.exact_match import count_cut, decoder
from sft_cli.eval.select_rows import Rows
from sft_cli.model.adapter.add import load_adapter
from sft_cli.model.device import ComputeSetup, choose_compute_setup
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.model.load import load_model, load_model_config
from sft_cli.model.quant import causal_lm
from sft_cli.run_dir import RunDir

SAMPLES = 3
"""Items printed with the answers of both models."""


def evaluate_run(run: RunDir, config: Config, rows: Rows, name: str, *, compare: bool) -> None:
    """Evaluate a finished run, write ``eval/<name>.json`` and print a table.

    Args:
        run: The run.
        config: Its config with the command line's overrides.
        rows: What it is evaluated on.
        name: The report's.
        compare: Whether the base model is evaluated too.
    """
    from peft import PeftModel  # behind sft_cli.model, which quiets an import it makes

    machine = choose_compute_setup(config.trainer, load_model_config(config.model), full=config.adapter.kind in WHOLE)
    stops, decode = stop_ids(run), decoder(load_tokenizer(str(run.result)))

    def measure(model: nn.Module, label: str) -> Evaluation:
        with machine.precision():
            loss_model, probed = build_loss_model(
                model,
                config.speed.logits_chunk,
                share=config.speed.share_prefixes,
                packing=config.speed.packing,
            )
        if not probed.packed_ok:
            say(f"packing   off for the {label} model, one example per row: {probed.reason}")
        with (
            machine.precision(),
            progress(f"{label} loss", unit="examples") as losses,
            progress(f"{label} answers", unit="prompts") as answered,
        ):
            return evaluate(
                loss_model,
                rows.split,
                config.eval,
                reduction=config.loss.reduction,
                budget=config.speed.tokens_per_micro_batch,
                decode=decode,
                stop_ids=stops,
                loss_progress=losses.update,
                answer_progress=answered.update,
            )

    model, base = load_tuned(run, config, machine), None
    tuned = measure(model, "tuned")
    if compare and isinstance(model, PeftModel):
        with model.disable_adapter():
            # Not through PEFT, which would still count the vectors of prompt tuning, and not pack.
            base = measure(causal_lm(model), "base")
    elif compare:
        del model  # two models need not fit
        base = measure(load_base(run, config, machine), "base")
    if config.eval.generate:
        _say_unasked(tuned, count_cut(rows.split, stops))
    report.show(tuned.metrics, base.metrics if base else None)
    if base is not None:
        both = {"base": base, "tuned": tuned}
        answers = {name: [answer.text for answer in one.answers] for name, one in both.items()}
        for line in sample_lines(tuned.items, answers, SAMPLES):
            say(line, indent=SAMPLE_INDENT)
    file = run.eval / f"{name}.json"
    report.write(report.with_base(report.as_json(name, run, rows, config, tuned, base), file), file)
    say(f"report    {file}")


def _say_unasked(tuned: Evaluation, cut: int) -> None:
    """Print why examples were not asked; ``cut`` of them lost the end of their reference answer."""
    if cut:
        say(f"answers   {counted(cut, 'example')} not asked: data.overflow=truncate cut the reference answer")
    elif not tuned.items:
        say("answers   none: every example is trained whole, without a prompt; loss and perplexity only")


def load_base(run: RunDir, config: Config, machine: ComputeSetup) -> PreTrainedModel:
    """The base model as the run's training loaded it, with the rows of added tokens as they began."""
    new = added_ids(load_tokenizer(str(run.result)), config.model.add_tokens)
    return _load(config, machine, new)


def _load(config: Config, machine: ComputeSetup, new: Sequence[int] = ()) -> PreTrainedModel:
    full = config.adapter.kind in WHOLE
    return load_model(
        config.model, config.quant, full=full, device=machine.device, compute_dtype=machine.dtype, added_ids=new
    )


def load_tuned(run: RunDir, config: Config, machine: ComputeSetup) -> nn.Module:
    """The trained model: the base with the run's adapter, or the run's own weights."""
    if config.adapter.kind in WHOLE:
        own = replace(config.model, path=str(run.result), revision=None)
        return _load(replace(config, model=own), machine)  # it has learnt the rows of added tokens
    return load_adapter(load_base(run, config, machine), run.result, machine.device)


def stop_ids(run: RunDir) -> list[int]:
    """The tokens that end an answer, as the run's generation config names them.

    Raises:
        SftError: It names none.
    """
    file = run.result / "generation_config.json"
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    found = [ends] if isinstance(ends, int) else ends
    if not found:
        raise SftError(
            where=str(file),
            problem="it names no stop token (eos_token_id)",
            fix="train again, or write the ids of the stop tokens there",
        )
    return found
