"""Merge an adapter into its base, write the result, and check that it computes the same as the adapter.

An adapter is never merged into quantized weights: bitsandbytes would quantize the sum again, which changes the logits
by a third, and after an evaluation on a CPU the stored bytes have another meaning (see ``quant``). So a quantized base
is loaded again and dequantized before it ever runs; the evaluation of the trained model uses another copy.

The sum is computed in float32 and rounded once: PEFT's update is float32, and torch adds it to a half-precision weight
in place as ``round(float32(weight) + update)``. (PEFT's ``safe_merge`` would round the update first.)
"""

import gc
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

import sft_cli.model  # noqa: F401  PEFT is imported there, without bitsandbytes and its warning on standard error

# isort: split
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.chat.template import server
from sft_cli.config.schema.adapter import QuantConfig, QuantKind
from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.console import gib, say, table
from sft_cli.errors import SftError
from sft_cli.merge.agreement import (
    MAX_KL,
    Agreement,
    ComparisonRow,
    compare_logits,
    read_comparison_rows,
    trained_logits,
)
from sft_cli.merge.card import CARD, MergeResult, render_card
from sft_cli.merge.plan import MergePlan, check_disk_space, make_merge_plan
from sft_cli.model import export_files
from sft_cli.model.adapter.add import load_adapter
from sft_cli.model.language_model import auto_class
from sft_cli.model.load import load_model, load_model_config
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.model.quant import causal_lm, dequantize
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import apply_umask
from sft_cli.utils.disks import translate_disk_errors

UNQUANTIZED = QuantConfig(kind=QuantKind.none)


def merge_adapter(run: RunDir, config: Config, *, out: Path, into: str, max_kl: float | None) -> MergeResult:
    """Write the merged model to ``out``; if that fails, or the model differs from the adapter, write nothing.

    Args:
        run: A finished run with an adapter.
        config: Its config.
        out: A path that does not exist.
        into: ``original`` or ``dequantized`` (then the run's base was quantized).
        max_kl: Largest mean KL(adapter ‖ merged) in nats; None means ``MAX_KL`` of the merged dtype.

    Raises:
        SftError: The model does not fit on the disk or the device, or differs from the adapter.
    """
    plan = make_merge_plan(run, config, into)
    out.parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(plan, out)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        result = build_merged(plan, config, temporary, out=out, max_kl=max_kl)
        apply_umask(temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"merged    {out} ({gib(result.size)} in {result.dtype})")
    say("next      it is a plain transformers model:")
    for line in export_files.usage_example(load_model_config(config.model), str(out)):
        say(f"          {line}")
    return result


def build_merged(plan: MergePlan, config: Config, directory: Path, *, out: Path, max_kl: float | None) -> MergeResult:
    """Create ``directory`` with the merged model, its tokenizer and its card, and compare it with the adapter.

    Args:
        plan: The settings of the merge.
        config: The run's config.
        directory: A path that does not exist; the caller removes it if this raises.
        out: Its final path, for errors.
        max_kl: See ``merge_adapter``.

    Raises:
        SftError: The model does not fit on the disk or the device, or differs from the adapter.
    """
    run = plan.run
    probes, limit = read_comparison_rows(run.probes), MAX_KL[plan.dtype] if max_kl is None else max_kl
    try:
        export_files.copy_model_files(run, config.model, directory)
        tokenizer = server.load_server_tokenizer(directory, None, trust_remote_code=config.model.trust_remote_code)
        rows = [(probe.where, probe.input_ids) for probe in probes]
        server.check_row_ids(tokenizer, run.adapter / "tokenizer.json", rows)
        trained = None if config.quant.kind is QuantKind.none else training_logits(plan, probes)
        with translate_disk_errors(out, "free disk space, or --out DIR on another disk; nothing was left there"):
            adapter = write_merged(plan, directory, probes)
        merged = reloaded_logits(plan, directory, probes)
    except RuntimeError as error:
        if not is_out_of_memory(error) or not torch.cuda.is_available():
            raise
        raise SftError(
            where=f"sft merge {shlex.quote(str(run.path))}",
            problem="the model does not fit into the memory of the GPU",
            fix="add trainer.device=cpu, which is slower and gives the same model",
        ) from error
    quantization_shift = None if trained is None else compare_logits(trained, merged)
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    name = str(plan.dtype).removeprefix("torch.")
    usage = tuple(export_files.usage_example(load_model_config(config.model), "DIRECTORY_OR_HUB_ID"))
    result = MergeResult(plan.into, name, size, limit, compare_logits(adapter, merged), quantization_shift, usage)
    print_agreement(result, config.quant)
    check_agreement(result, run)
    (directory / CARD).write_text(render_card(run, config, result), encoding="utf-8")
    return result


def training_logits(plan: MergePlan, probes: Sequence[ComparisonRow]) -> list[Tensor]:
    """Return the logits of the quantized base with the adapter, as trained."""
    base = load_training_base(plan)
    logits = trained_logits(load_adapted(base, plan), probes)
    del base
    release_memory()
    return logits


def write_merged(
    plan: MergePlan, directory: Path, probes: Sequence[ComparisonRow], *, without_lora: bool = False
) -> list[Tensor]:
    """Merge and save the model; return the logits before merging.

    Args:
        plan: The settings of the merge.
        directory: The directory to save to.
        probes: The rows of the logits.
        without_lora: Whether to leave the LoRA matrices out: only trained token rows and whole modules are merged.
    """
    model = load_adapted(load_base_to_merge(plan), plan)
    logits = trained_logits(model, probes)
    if without_lora:
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling = dict.fromkeys(layer.scaling, 0.0)
    untie_embeddings(model)
    merged = model.merge_and_unload()
    if plan.dtype != plan.sum_dtype:
        merged.to(plan.dtype)
    merged.generation_config = export_files.make_generation_config(merged.generation_config, plan.run)
    export_files.set_eos_tokens(merged.config, export_files.run_stop_ids(plan.run))
    merged.save_pretrained(directory, max_shard_size=plan.shard_size)
    del model, merged
    release_memory()
    return logits


def untie_embeddings(model: PeftModel) -> None:
    """Give the head its own matrix, in place, if it is tied to the embedding and either has an adapter.

    The adapter changes one of the two; merged into the tied matrix, it would change both.
    """
    lm = causal_lm(model)
    layers = (lm.get_input_embeddings(), lm.get_output_embeddings())
    embedding, head = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    has_adapter = any(isinstance(layer, BaseTunerLayer) for layer in layers)
    if not (has_adapter and isinstance(head, nn.Linear) and isinstance(embedding, nn.Embedding)):
        return
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        lm.config.tie_word_embeddings = lm.config.get_text_config().tie_word_embeddings = False
        say("head      gets its own matrix: the adapter changes the embedding and the head differently")


def load_base_to_merge(plan: MergePlan) -> PreTrainedModel:
    """Load the base with plain linear layers in the dtype of the merged weights; it has not run yet."""
    if plan.into == "original":
        # model.dtype=auto takes the compute dtype, which is here the dtype of the stored weights.
        model_config = ModelConfig(
            path=plan.model.path, revision=plan.model.revision, trust_remote_code=plan.model.trust_remote_code
        )
        return load_model(
            model_config,
            UNQUANTIZED,
            full=False,
            device=plan.device,
            compute_dtype=plan.sum_dtype,
            added_ids=plan.added_ids,
        )
    base = load_training_base(plan)
    return dequantize(base, plan.sum_dtype).to(plan.sum_dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


def load_training_base(plan: MergePlan) -> PreTrainedModel:
    """Load the base as it was stored in training."""
    return load_model(
        plan.model,
        plan.quant,
        full=False,
        device=plan.device,
        compute_dtype=plan.trained_dtype,
        added_ids=plan.added_ids,
    )


def load_adapted(base: PreTrainedModel, plan: MergePlan) -> PeftModel:
    """Return the base with the run's adapter."""
    return load_adapter(base, plan.run.adapter, plan.device)


def reloaded_logits(plan: MergePlan, directory: Path, probes: Sequence[ComparisonRow]) -> list[Tensor]:
    """Return the logits of the written model, loaded as any user would load it."""
    model_class = auto_class(load_model_config(plan.model))
    model = model_class.from_pretrained(directory, trust_remote_code=plan.model.trust_remote_code)
    model.to(plan.device)  # pyright: ignore[reportArgumentType]  transformers wraps the method
    logits = trained_logits(model, probes)
    del model
    release_memory()
    return logits


def release_memory() -> None:
    """Free deleted models: their modules reference each other, and two models may not fit into memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_agreement(result: MergeResult, run: RunDir) -> None:
    """Refuse a merged model that differs from the adapter; NaN counts as different."""
    agreement, path = result.agreement, shlex.quote(str(run.path))
    if not agreement.kl <= result.max_kl:
        raise SftError(
            where=f"sft merge {path} --into {result.into}",
            problem=f"the merged model differs from the adapter: KL {agreement.kl:.2g} nats over"
            f" {agreement.positions} positions, at most {result.max_kl:g} is allowed; nothing was written",
            fix=f"check the adapter: sft eval {path}; --max-kl NATS allows more",
        )


def print_agreement(result: MergeResult, quant: QuantConfig) -> None:
    """Print the agreement of the merged model with the adapter, and with the model as it was trained."""
    pairs: list[tuple[str, Agreement, float | None]] = [("adapter and merged", result.agreement, result.max_kl)]
    if result.shift is not None:
        pairs.append((f"as trained ({quant.kind.value}) and merged: quantization shift", result.shift, None))
    columns = ("logits compared", "KL in nats", "at most", "same top token", "positions", "rows")
    table(
        columns,
        [
            (name, agreement.kl, limit, f"{agreement.argmax:.2%}", agreement.positions, agreement.rows)
            for name, agreement, limit in pairs
        ],
    )
