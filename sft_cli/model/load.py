"""Load the base model, or say in one sentence why it cannot be loaded."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from sft_cli.config import paths
from sft_cli.config.model_files import context_window
from sft_cli.config.model_files.not_found import near_directory, unreachable
from sft_cli.config.model_files.weights import CONVERT, refuse_without_weights
from sft_cli.config.schema.adapter import FOUR_BITS, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.trainer import Dtype
from sft_cli.console import status
from sft_cli.errors import SftError
from sft_cli.model.adapter.added_token_rows import add_rows
from sft_cli.model.device import DTYPES
from sft_cli.model.language_model import (
    auto_class,
    beside_language,
    known,
    own_modules,
    refuse_inseparable,
    refuse_unproven,
)
from sft_cli.model.prequantized import (
    computing_in,
    kind_of,
    plain_in,
    refuse_odd_blocks,
    refuse_storage,
    storage,
    unpacking,
)
from sft_cli.model.quant import quantization, refuse_odd_sizes

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

MISSING = re.compile(r"requires the (\w+) library")
ALWAYS_CAUSAL = {"gpt_neox", "gpt_neox_japanese", "trocr"}
"""Families whose configuration has ``is_decoder`` though nothing depends on it."""


def wrong(config: ModelConfig, problem: str, fix: str) -> SftError:
    """A mistake in model.path."""
    return SftError(where=f"model.path={config.path}", problem=problem, fix=fix)


def located(config: ModelConfig) -> str:
    """The directory or hub id to load from, checked as far as that goes without reading a model."""
    if config.path is None:
        raise SftError(where="model.path", problem="no model is named", fix="model.path=DIR_OR_HUB_ID")
    path = paths.resolve(config.path)
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise wrong(config, f"{path} holds no config.json", "name the directory that save_pretrained wrote")
    elif Path(path).exists() or not HUB_ID.fullmatch(path):
        problem = f"{path} is neither a directory nor a hub id"
        raise wrong(config, problem, near_directory(path, "model.path"))
    return path


def load_config(config: ModelConfig) -> PretrainedConfig:
    """The model's own configuration; no weights are read."""
    path = located(config)
    try:
        found = AutoConfig.from_pretrained(path, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise unreadable(config, error) from error
    remote = "AutoModelForCausalLM" in vars(found).get("auto_map", {})
    if not known(found) and not (remote and config.trust_remote_code):
        raise wrong(
            config,
            f"model type {found.model_type} is not a causal language model",
            "name a model that AutoModelForCausalLM can load",
        )
    if found.is_encoder_decoder:
        raise wrong(
            config,
            f"model type {found.model_type} has an encoder, which a causal language model leaves out",
            "name a decoder-only model",
        )
    if sees_later(found):
        raise wrong(
            config,
            f"model type {found.model_type} is an encoder: each token sees those after it, also the ones it should"
            " predict",
            'name a causal language model; if it was trained as one, its config.json lacks "is_decoder": true',
        )
    return found


def sees_later(config: PretrainedConfig) -> bool:
    """Whether it is of a family that masks later tokens only when the configuration says so (BERT), and it does not."""
    said = config.to_dict()
    return config.model_type not in ALWAYS_CAUSAL and False in (said.get("is_decoder"), said.get("causal"))


def unreadable(config: ModelConfig, error: Exception) -> SftError:
    """Why transformers did not load it, in its own first line, with what to do about it."""
    reason = str(error).splitlines()[0]
    if "trust_remote_code" in str(error):
        return wrong(
            config, "the model brings its own Python code", "model.trust_remote_code=true, if you trust its author"
        )
    if Path(paths.resolve(str(config.path))).is_dir():
        return wrong(config, reason, "repair the directory or download the model again")
    return wrong(config, reason, unreachable(str(config.path), "model.path"))


def check_weights(config: ModelConfig, directory: Path) -> None:
    """Refuse a local model without complete safetensors weights; pickled weights are never read."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise wrong(config, f"{index.name} is not readable", "download the model again") from error
        if foreign := [shard for shard in shards if not str(shard).endswith(".safetensors")]:
            raise wrong(config, f"{foreign[0]!r} is no safetensors file, and pickled weights are not read", CONVERT)
        if missing := [shard for shard in shards if not (directory / shard).is_file()]:
            raise wrong(config, f"weight file {missing[0]} is missing", "download the model again")
    refuse_without_weights(config)


def load_model(
    config: ModelConfig,
    quant: QuantConfig,
    *,
    full: bool,
    device: torch.device,
    compute_dtype: torch.dtype,
    added_ids: Sequence[int] = (),
) -> PreTrainedModel:
    """The base model on its device, in training mode, every weight trainable that is not quantised.

    Args:
        config: The model.
        quant: How frozen weights are stored; must be none for full fine-tuning.
        full: Every weight will be trained: float32 master weights unless model.dtype says otherwise.
        device: Where it computes.
        compute_dtype: Type of the matrix products, and of the weights under an adapter.
        added_ids: Ids of ``model.add_tokens``, whose rows begin at the mean; empty for a model that has learnt them.

    Raises:
        SftError: It cannot be loaded, here or at all.
    """
    if full and quant.kind is not QuantKind.none:
        raise SftError(
            where=f"adapter.kind=none, quant.kind={quant.kind.value}",
            problem="quantised weights cannot be trained",
            fix="adapter=lora, or quant=none",
        )
    disable_progress_bar()
    status("loading   the weights")
    own = load_config(config)
    path = located(config)
    if Path(path).is_dir():
        check_weights(config, Path(path))
    refuse_storage(own, config, quant, full=full)
    stored = storage(own) is not None
    empty = empty_model(own, config.trust_remote_code)
    refuse_inseparable(empty, f"model.path={config.path}")
    refuse_shapes(config, own, quant, empty, device)
    quantised, dtype = quantization(quant, compute_dtype), weights_dtype(config, full, compute_dtype)
    if quantised is not None:
        leave_plain(quantised, empty)
    wanted = quantised or unpacking(own)
    try:
        model = auto_class(own).from_pretrained(
            path,
            config=computing_in(own, compute_dtype),
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=dtype,
            use_safetensors=True,
            device_map={"": device},  # straight there, without a copy in the memory of the host
            **({} if wanted is None else {"quantization_config": wanted}),
        )
    except (OSError, ValueError) as error:
        raise unreadable(config, error) from error
    if stored:
        plain_in(model, dtype)
    refuse_unproven(model, f"model.path={config.path}")
    add_rows(model, added_ids)
    return model.train()


def refuse_shapes(
    config: ModelConfig, own: PretrainedConfig, quant: QuantConfig, empty: PreTrainedModel, device: torch.device
) -> None:
    """Refuse linear layers whose shapes the storage of the weights does not take.

    Args:
        config: The model.
        own: Its configuration.
        quant: How frozen weights are to be stored.
        empty: The model without weights.
        device: Where it computes.
    """
    kind = kind_of(own, quant)
    if kind in FOUR_BITS or storage(own) is not None:
        linears = inner_linears(empty)
        refuse_odd_blocks(own, linears, config.path)
        if kind in FOUR_BITS:
            refuse_odd_sizes(linears, device, kind)


def leave_plain(wanted: BitsAndBytesConfig, empty: PreTrainedModel) -> None:
    """Have only the language model of a vision-language model quantised; ``wanted`` is changed in place."""
    if beside := beside_language(empty):
        head = empty.get_output_embeddings()
        heads = [name for name, module in empty.named_modules() if module is head]
        wanted.llm_int8_skip_modules = [*beside, *heads]


def weights_dtype(config: ModelConfig, full: bool, compute_dtype: torch.dtype) -> torch.dtype:
    """The type of the loaded weights; see ModelConfig.dtype."""
    if config.dtype is Dtype.auto:
        return torch.float32 if full else compute_dtype
    return DTYPES[config.dtype]


def empty_model(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """The model without weights: names and shapes on torch's meta device, no memory.

    Raises:
        SftError: A part of it is made by a library that is not installed (the towers of Gemma 3n by timm).
    """
    try:
        with torch.device("meta"):
            return auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except ImportError as error:
        library = MISSING.search(str(error))
        raise SftError(
            where=f"model type {config.model_type}",
            problem=str(error).strip().splitlines()[0],
            fix=f"pip install {library[1]}" if library else "install what it names",
        ) from error


def context_length(config: PretrainedConfig) -> int | None:
    """Most tokens the model takes; None for families without such a limit (BLOOM, Mamba)."""
    return context_window.context_length(config.get_text_config().to_dict())


def stated(config: PretrainedConfig, name: str) -> int | None:
    """A number of the text model's configuration by its common name; None where the family has none."""
    text = config.get_text_config()
    return text.to_dict().get(text.attribute_map.get(name, name))


def inner_linears(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """The linear layers that get quantised or adapted, by name: all of the language model but the head."""
    head, layers = model.get_output_embeddings(), own_modules(model)
    return {
        name: layer for name, layer in layers.items() if layer is not head and isinstance(layer, nn.Linear | Conv1D)
    }
