"""What a model directory needs beside weights: the type they are stored in, the tokenizer, how generation stops."""

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
from sft_cli.model.language_model import auto_class, takes_more
from sft_cli.model.load import load_config, located
from sft_cli.run_dir import RunDir

STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
NEUTRAL = ("bos_token_id", "pad_token_id", "max_length", "max_new_tokens")
"""Generation settings of the base that change no greedy answer; sampling and penalties do, or are refused beside it."""
PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""What reads images and sound for the towers beside a language model."""
NOT_SERVED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "generation_config.json",
    "README.md",
    "frozen_adapters.json",
)
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


def stop_ids(run: RunDir) -> list[int]:
    """The tokens that end an answer of the run."""
    return run.read(run.adapter / "generation_config.json")["eos_token_id"]


def copy_files(run: RunDir, config: ModelConfig, directory: Path) -> None:
    """Copy the tokenizer with its chat template, the model's config, and the code of a model that runs its own."""
    directory.mkdir()
    own = load_config(config)
    own.save_pretrained(directory)
    copy_processor(config, own, directory)
    for file in sorted(run.adapter.iterdir()):
        if file.is_file() and file.name not in NOT_SERVED:
            shutil.copy(file, directory / file.name)
    if (run.adapter / CHAT_TEMPLATE_DIR).is_dir():
        shutil.copytree(run.adapter / CHAT_TEMPLATE_DIR, directory / CHAT_TEMPLATE_DIR)
    tokenizer_ends_at(directory, stop_ids(run))
    if config.trust_remote_code and config.path is not None:
        for file in Path(paths.resolve(config.path)).glob("*.py"):
            shutil.copy(file, directory / file.name)


def copy_processor(base: ModelConfig, own: PretrainedConfig, directory: Path) -> None:
    """Copy how images and sound are read, of a model that takes them; the chat template is the tokenizer's, as trained.

    Args:
        base: The model that training began with.
        own: Its configuration.
        directory: The new model's.
    """
    for name in PROCESSOR if takes_more(own) else ():
        found = cached_file(located(base), name, revision=base.revision, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            shutil.copyfile(found, directory / name)


def usage(own: PretrainedConfig, path: str) -> list[str]:
    """Python that asks the model in a directory: in one call where transformers has a pipeline for text alone.

    Args:
        own: The model's configuration.
        path: The directory, as it is to be shown.
    """
    turns = "[{'role': 'user', 'content': 'Hello'}]"
    if not takes_more(own):
        return [
            "from transformers import pipeline",
            f"answer = pipeline('text-generation', {path!r})",
            f"print(answer({turns}))",
        ]
    kind = auto_class(own).__name__
    return [
        f"from transformers import AutoTokenizer, {kind}",
        f"tokenizer = AutoTokenizer.from_pretrained({path!r})",
        f"model = {kind}.from_pretrained({path!r})",
        "how = {'return_dict': True, 'return_tensors': 'pt'}",
        f"chat = {turns}",
        "row = tokenizer.apply_chat_template(chat, add_generation_prompt=True, **how)",
        "print(tokenizer.decode(model.generate(**row, max_new_tokens=100)[0]))",
    ]


def ends_at(config: PretrainedConfig, stop_ids: Sequence[int]) -> None:
    """Name the stop tokens in a model's configuration, in place: some servers read no generation_config.json."""
    for part in (config, config.get_text_config()):
        part.eos_token_id = stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)


def tokenizer_ends_at(directory: Path, stop_ids: Sequence[int]) -> None:
    """Name a stop token as the end of text in a saved tokenizer: its own where it is one of them, else the first.

    A chat template that writes ``eos_token`` itself keeps the one that it was trained with.
    """
    template = directory / "chat_template.jinja"
    file = directory / "tokenizer_config.json"
    if not file.is_file() or (template.is_file() and "eos_token" in template.read_text(encoding="utf-8")):
        return
    names = Tokenizer.from_file(str(directory / "tokenizer.json"))
    stops = [names.id_to_token(id) for id in stop_ids]
    for place in (file, directory / "special_tokens_map.json"):
        values = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        own = values.get("eos_token")
        text = own.get("content") if isinstance(own, dict) else own
        if place.is_file() and text not in stops:
            values["eos_token"] = {**own, "content": stops[0]} if isinstance(own, dict) else stops[0]
            place.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
