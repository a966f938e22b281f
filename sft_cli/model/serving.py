"""What a model directory needs beside weights: the type they are stored in, the tokenizer, how generation stops."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig
from transformers.utils.hub import cached_file

from sft_cli.config import paths
from sft_cli.config.rundir import RunDir
from sft_cli.config.schema import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.load import load_config, located

STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NEUTRAL = ("bos_token_id", "pad_token_id", "max_length", "max_new_tokens")
"""Generation settings of the base that change no greedy answer; sampling and penalties do, or are refused beside it."""
NOT_SERVED = ("adapter_config.json", "adapter_model.safetensors", "generation_config.json", "README.md", "beneath.json")
"""Files of adapter/ that a merged model does not carry as they are."""


def stored_dtype(config: ModelConfig) -> torch.dtype:
    """The type of the base's own weights: what config.json says, or else the first floating tensor of its file.

    Raises:
        SftError: The base is stored quantised, or in a type that nothing is merged in.
    """
    own = load_config(config)
    named = own.get_text_config().dtype or own.dtype
    dtype = first_dtype(located(config), config.revision) if named is None else named
    if "quantization_config" in vars(own) or dtype not in STORED.values():
        raise SftError(
            where=f"model.path={config.path}",
            problem="the base itself is stored quantised, and an adapter cannot be added to such weights",
            fix="name the same model in float32, bfloat16 or float16: model.path=DIR_OR_HUB_ID",
        )
    assert isinstance(dtype, torch.dtype)
    return dtype


def first_dtype(path: str, revision: str | None) -> torch.dtype | None:
    """The type of the first floating tensor of a model; None when it has no such tensor."""
    try:
        file = cached_file(path, "model.safetensors", revision=revision)
    except OSError:  # it is sharded
        index = cached_file(path, "model.safetensors.index.json", revision=revision)
        assert index is not None
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        file = cached_file(path, min(shards), revision=revision)
    assert file is not None
    with safe_open(file, framework="pt") as tensors:
        kinds = [tensors.get_slice(name).get_dtype() for name in tensors.keys()]  # noqa: SIM118  it is no mapping
    return next((STORED[kind] for kind in kinds if kind in STORED), None)


def generation_config(base: GenerationConfig | None, run: RunDir) -> GenerationConfig:
    """Greedy, ending at the run's stop tokens, with the base's settings that do not change the answers."""
    values: dict[str, Any] = {} if base is None else base.to_dict()
    kept = {name: values[name] for name in NEUTRAL if values.get(name) is not None}
    return GenerationConfig(**{**kept, **run.read(run.adapter / "generation_config.json")})


def copy_files(run: RunDir, config: ModelConfig, directory: Path) -> None:
    """Copy the tokenizer with its chat template, the model's config, and the code of a model that runs its own."""
    directory.mkdir()
    load_config(config).save_pretrained(directory)
    for file in sorted(run.adapter.iterdir()):
        if file.is_file() and file.name not in NOT_SERVED:
            shutil.copy(file, directory / file.name)
    if config.trust_remote_code and config.path is not None:
        for file in Path(paths.resolve(config.path)).glob("*.py"):
            shutil.copy(file, directory / file.name)


def readable(directory: Path) -> None:
    """Give every file below the mode of a new file: safetensors makes its files for their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)
