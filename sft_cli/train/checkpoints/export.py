"""Export of a finished run: the adapter or the model, with the tokenizer and the stop tokens for serving."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sft_cli.config.schema.config import ModelConfig
from sft_cli.data.prepared import PreparedData
from sft_cli.data.prepared_writer import IGNORE_INDEX
from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.model.export_files import copy_processor_files, set_eos_tokens, set_tokenizer_eos
from sft_cli.model.quant import causal_lm
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import apply_umask, fsync
from sft_cli.utils.disks import translate_disk_errors

NUM_PROBES = 16
"""Number of rows saved for comparing a merged model with its adapter."""


def export_model(
    model: nn.Module, directory: RunDir, stop_ids: Sequence[int], base: ModelConfig, frozen: Sequence[Path] = ()
) -> Path:
    """Write ``adapter/`` or ``model/`` through a temporary directory and return its path.

    Args:
        model: The trained model: a PEFT model, or a transformers model whose own weights were trained.
        directory: The run directory.
        stop_ids: Tokens that end an answer.
        base: The settings of the base model.
        frozen: Frozen adapters (see ``warm_start.initial_adapters``), which become part of the exported adapter.
    """
    from peft import PeftModel

    final = directory.adapter if isinstance(model, PeftModel) else directory.model
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with translate_disk_errors(final, "free disk space, then resume the run"):
            if isinstance(model, PeftModel):
                save_adapter(model, temporary, frozen)
            else:
                set_eos_tokens(causal_lm(model).config, stop_ids)
                causal_lm(model).save_pretrained(temporary)
        shutil.copytree(directory.tokenizer, temporary, dirs_exist_ok=True)
        if not isinstance(model, PeftModel):
            copy_processor_files(base, causal_lm(model).config, temporary)
            set_tokenizer_eos(temporary, stop_ids)
        generation = {"eos_token_id": list(stop_ids), "do_sample": False}
        (temporary / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        apply_umask(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                fsync(file)
        if final.exists():  # the run was extended
            earlier = final.with_name(f".{final.name}.old.tmp")
            shutil.rmtree(earlier, ignore_errors=True)
            final.rename(earlier)
            temporary.rename(final)
            shutil.rmtree(earlier)
        else:
            temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def copy_data_files(directory: RunDir, prepared: PreparedData) -> None:
    """Copy the data's tokenizer, manifest and golden prompts, and write the rows on which merges are compared."""
    # copyfile copies no permissions: those belong to the user who prepared the data.
    tokenizer_directory = prepared.tokenizer_directory
    shutil.copytree(tokenizer_directory, directory.tokenizer, dirs_exist_ok=True, copy_function=shutil.copyfile)
    shutil.copyfile(prepared.directory / "manifest.json", directory.manifest)
    shutil.copyfile(prepared.directory / "golden.json", directory.golden)
    split = prepared.validation if len(prepared.validation) else prepared.train
    probes = []
    for index in range(min(NUM_PROBES, len(split))):
        tokens = split.tokens(index)
        labels = [
            int(id) if weight else IGNORE_INDEX for id, weight in zip(tokens.input_ids, tokens.weights, strict=True)
        ]
        probes.append({"where": split.where(index), "input_ids": tokens.input_ids.tolist(), "labels": labels})
    directory.probes.write_text(json.dumps(probes) + "\n", encoding="utf-8")
