"""The files of a model directory other than weights: tokenizer, configuration, generation settings."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import GenerationConfig, PretrainedConfig
from transformers.utils.hub import CHAT_TEMPLATE_DIR, cached_file

from sft_cli.config import paths
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.language_model import auto_class, is_multimodal
from sft_cli.model.load import load_model_config, resolve_model
from sft_cli.run_dir import RunDir

SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
KEPT_GENERATION_KEYS = ("bos_token_id", "pad_token_id", "max_length", "max_new_tokens")
"""Generation settings of the base that do not change greedy answers; sampling settings and penalties would."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files with the preprocessing of images and sound for models with towers."""
NOT_COPIED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "generation_config.json",
    "README.md",
    "frozen_adapters.json",
)
"""Files of adapter/ that are not copied into a merged model."""


def stored_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype of the base's weights: that in config.json, or else that of the first floating-point tensor.

    Raises:
        SftError: The base is stored quantized, or in a dtype that cannot be merged.
    """
    model_config = load_model_config(config)
    configured = model_config.get_text_config().dtype or model_config.dtype
    dtype = first_tensor_dtype(resolve_model(config), config.revision) if configured is None else configured
    if "quantization_config" in vars(model_config) or dtype not in SAFETENSORS_DTYPES.values():
        raise SftError(
            where=f"model.path={config.path}",
            problem="the base is stored quantized, and an adapter cannot be added to such weights",
            fix="model.path=DIR_OR_HUB_ID of the same model in float32, bfloat16, float16",
        )
    assert isinstance(dtype, torch.dtype)
    return dtype


def first_tensor_dtype(path: str, revision: str | None) -> torch.dtype | None:
    """Return the dtype of a model's first floating-point tensor; None if there is none."""
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
    return next((SAFETENSORS_DTYPES[kind] for kind in kinds if kind in SAFETENSORS_DTYPES), None)


def make_generation_config(base: GenerationConfig | None, run: RunDir) -> GenerationConfig:
    """Return a greedy config with the run's stop tokens and the base's settings that do not change the answers."""
    values: dict[str, Any] = {} if base is None else base.to_dict()
    kept = {name: values[name] for name in KEPT_GENERATION_KEYS if values.get(name) is not None}
    return GenerationConfig(**{**kept, **run.read_json(run.adapter / "generation_config.json")})


def run_stop_ids(run: RunDir) -> list[int]:
    """Return the tokens that end an answer of the run."""
    return run.read_json(run.adapter / "generation_config.json")["eos_token_id"]


def copy_model_files(run: RunDir, config: ModelConfig, directory: Path) -> None:
    """Copy the tokenizer with its chat template, the model's config, and the Python code of custom models."""
    directory.mkdir()
    model_config = load_model_config(config)
    model_config.save_pretrained(directory)
    copy_processor_files(config, model_config, directory)
    for file in sorted(run.adapter.iterdir()):
        if file.is_file() and file.name not in NOT_COPIED:
            shutil.copy(file, directory / file.name)
    if (run.adapter / CHAT_TEMPLATE_DIR).is_dir():
        shutil.copytree(run.adapter / CHAT_TEMPLATE_DIR, directory / CHAT_TEMPLATE_DIR)
    set_tokenizer_eos(directory, run_stop_ids(run))
    if config.trust_remote_code and config.path is not None:
        for file in Path(paths.resolve(config.path)).glob("*.py"):
            shutil.copy(file, directory / file.name)


def copy_processor_files(base: ModelConfig, model_config: PretrainedConfig, directory: Path) -> None:
    """Copy the processor files of a model that takes images or sound, but not their chat template.

    Args:
        base: The model that training started from.
        model_config: Its configuration.
        directory: The new model's.
    """
    for name in PROCESSOR_FILES if is_multimodal(model_config) else ():
        file = cached_file(
            resolve_model(base), name, revision=base.revision, _raise_exceptions_for_missing_entries=False
        )
        if file is not None:
            shutil.copyfile(file, directory / name)


def usage_example(model_config: PretrainedConfig, path: str) -> list[str]:
    """Return Python lines that query the model: a text-generation pipeline, or for a multimodal model its classes.

    Args:
        model_config: The model's configuration.
        path: The directory to name in the lines.
    """
    turns = "[{'role': 'user', 'content': 'Hello'}]"
    if not is_multimodal(model_config):
        return [
            "from transformers import pipeline",
            f"answer = pipeline('text-generation', {path!r})",
            f"print(answer({turns}))",
        ]
    kind = auto_class(model_config).__name__
    return [
        f"from transformers import AutoTokenizer, {kind}",
        f"tokenizer = AutoTokenizer.from_pretrained({path!r})",
        f"model = {kind}.from_pretrained({path!r})",
        "how = {'return_dict': True, 'return_tensors': 'pt'}",
        f"chat = {turns}",
        "row = tokenizer.apply_chat_template(chat, add_generation_prompt=True, **how)",
        "print(tokenizer.decode(model.generate(**row, max_new_tokens=100)[0]))",
    ]


def set_eos_tokens(config: PretrainedConfig, stop_ids: Sequence[int]) -> None:
    """Set the stop tokens in a model's configuration, in place: some servers do not read generation_config.json."""
    for part in (config, config.get_text_config()):
        part.eos_token_id = stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)


def set_tokenizer_eos(directory: Path, stop_ids: Sequence[int]) -> None:
    """Set the EOS token of a saved tokenizer to the first stop token, unless it is a stop token already.

    If the chat template uses ``eos_token``, the EOS token stays as it was in training.
    """
    template = directory / "chat_template.jinja"
    file = directory / "tokenizer_config.json"
    if not file.is_file() or (template.is_file() and "eos_token" in template.read_text(encoding="utf-8")):
        return
    names = Tokenizer.from_file(str(directory / "tokenizer.json"))
    stops = [names.id_to_token(id) for id in stop_ids]
    for config_file in (file, directory / "special_tokens_map.json"):
        values = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        token = values.get("eos_token")
        text = token.get("content") if isinstance(token, dict) else token
        if config_file.is_file() and text not in stops:
            values["eos_token"] = {**token, "content": stops[0]} if isinstance(token, dict) else stops[0]
            config_file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
