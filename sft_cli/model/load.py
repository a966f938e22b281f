"""Load the base model and its configuration."""

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
from sft_cli.config.model_files.not_found import suggest_directory, suggest_hub_fix
from sft_cli.config.schema.adapter import FOUR_BITS, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.trainer import Dtype
from sft_cli.errors import SftError
from sft_cli.model.adapter.added_token_rows import add_token_rows
from sft_cli.model.device import DTYPES
from sft_cli.model.int8 import replace_int8_products
from sft_cli.model.language_model import (
    MODEL_CODE_ERRORS,
    auto_class,
    check_separable,
    check_trains_on_text,
    first_line,
    is_supported_type,
    language_modules,
    non_language_modules,
)
from sft_cli.model.model_checks import check_weight_files, is_bidirectional, model_error, refuse_missing_weights
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.model.prequantized import (
    bitsandbytes_kind,
    cast_unquantized,
    check_fp8_blocks,
    check_quantization,
    dequantize_config,
    stored_quantization,
    with_compute_dtype,
)
from sft_cli.model.quant import bitsandbytes_config, check_4bit_sizes
from sft_cli.progress import status

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn"}
"""Modules that pip knows by another name."""
MISSING_LIBRARY = re.compile(r"requires the (\w+) library")


def resolve_model(config: ModelConfig) -> str:
    """Return the directory or hub id to load from, checked as far as possible without loading anything."""
    if config.path is None:
        raise SftError(where="model.path", problem="no model is named", fix="model.path=DIR_OR_HUB_ID")
    path = paths.resolve(config.path)
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            raise model_error(config, f"{path} has no config.json", "name the directory that save_pretrained wrote")
    elif Path(path).exists() or not HUB_ID.fullmatch(path):
        problem = f"{path} is neither a directory nor a hub id"
        raise model_error(config, problem, suggest_directory(path, "model.path"))
    return path


def load_model_config(config: ModelConfig) -> PretrainedConfig:
    """Load the model's own configuration; no weights are read.

    Raises:
        SftError: It cannot be loaded, or the model is not a causal language model.
    """
    path = resolve_model(config)
    try:
        model_config = AutoConfig.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise load_failure(config, error) from error
    has_own_class = "AutoModelForCausalLM" in vars(model_config).get("auto_map", {})
    if not is_supported_type(model_config) and not (has_own_class and config.trust_remote_code):
        raise model_error(
            config,
            f"model type {model_config.model_type} is not a causal language model",
            "name a model that AutoModelForCausalLM can load",
        )
    if model_config.is_encoder_decoder:
        raise model_error(
            config,
            f"model type {model_config.model_type} has an encoder, but a causal language model has only a decoder",
            "name a decoder-only model",
        )
    if is_bidirectional(model_config):
        switch = '; if this one was trained as such, add "is_decoder": true to its config.json'
        raise model_error(
            config,
            f"model type {model_config.model_type} is an encoder: each token attends to later ones, also to those it"
            " should predict",
            f"name a causal language model{switch if 'is_decoder' in model_config.to_dict() else ''}",
        )
    return model_config


def load_failure(config: ModelConfig, error: Exception) -> SftError:
    """Turn an error of transformers into an SftError with its first line and a fix."""
    reason = str(error).splitlines()[0]
    if "trust_remote_code" in str(error):
        return model_error(
            config, "the model has its own Python code", "model.trust_remote_code=true, if you trust its author"
        )
    if Path(paths.resolve(str(config.path))).is_dir():
        return model_error(config, reason, "repair the directory or download the model again")
    return model_error(config, reason, suggest_hub_fix(str(config.path), "model.path"))


def load_model(
    config: ModelConfig,
    quant: QuantConfig,
    *,
    full: bool,
    device: torch.device,
    compute_dtype: torch.dtype,
    added_ids: Sequence[int] = (),
) -> PreTrainedModel:
    """Load the base model to a device, in training mode; all weights that are not quantized are trainable.

    Args:
        config: The model.
        quant: How frozen weights are stored; must be none for full fine-tuning.
        full: Whether all weights will be trained: they are then float32 unless model.dtype is set.
        device: The device of the model.
        compute_dtype: Dtype of matrix products, and of the weights under an adapter.
        added_ids: Ids of ``model.add_tokens``, whose rows start at the mean; empty if the model was trained with them.

    Raises:
        SftError: The model cannot be loaded, at all or on this machine.
    """
    disable_progress_bar()
    status("loading   the weights")
    model_config, empty = _check_loadable(config, quant, full=full, device=device)
    bnb_config, dtype = bitsandbytes_config(quant, compute_dtype), weights_dtype(config, full, compute_dtype)
    if bnb_config is not None:
        skip_towers_in_quantization(bnb_config, empty)
    quantization_config = bnb_config or dequantize_config(model_config)
    try:
        model, found = auto_class(model_config).from_pretrained(
            resolve_model(config),
            config=with_compute_dtype(model_config, compute_dtype),
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=dtype,
            use_safetensors=True,
            device_map={"": device},  # avoids a copy in host memory
            output_loading_info=True,
            **({} if quantization_config is None else {"quantization_config": quantization_config}),
        )
    except (OSError, ValueError) as error:
        raise load_failure(config, error) from error
    except RuntimeError as error:
        if is_out_of_memory(error) or "ignore_mismatched_sizes" not in str(error):
            raise
        problem = "the shapes of its weights are not those that config.json gives"
        raise model_error(config, problem, "repair config.json, or download the model again") from error
    refuse_missing_weights(config, found["missing_keys"])
    if stored_quantization(model_config) is not None:
        cast_unquantized(model, dtype)
    check_trains_on_text(model, f"model.path={config.path}")
    replace_int8_products(model)
    add_token_rows(model, added_ids)
    return model.train()


def _check_loadable(
    config: ModelConfig, quant: QuantConfig, *, full: bool, device: torch.device
) -> tuple[PretrainedConfig, PreTrainedModel]:
    """Check everything that needs no weights; return the model's configuration and the model without weights.

    Args:
        config: The model.
        quant: How frozen weights are stored.
        full: Whether all weights will be trained.
        device: The device of the model.

    Raises:
        SftError: The model cannot be loaded with these settings.
    """
    if full and quant.kind is not QuantKind.none:
        raise SftError(
            where=f"adapter.kind=none, quant.kind={quant.kind.value}",
            problem="quantized weights cannot be trained",
            fix="adapter=lora, or quant=none",
        )
    model_config = load_model_config(config)
    path = Path(resolve_model(config))
    if path.is_dir():
        check_weight_files(config, path)
    check_quantization(model_config, config, quant, full=full)
    empty = empty_model(model_config, config.trust_remote_code)
    check_separable(empty, f"model.path={config.path}")
    check_layer_shapes(config, model_config, quant, empty, device)
    return model_config, empty


def check_layer_shapes(
    config: ModelConfig,
    model_config: PretrainedConfig,
    quant: QuantConfig,
    empty: PreTrainedModel,
    device: torch.device,
) -> None:
    """Refuse linear layers whose shapes the storage of the weights does not support.

    Args:
        config: The model.
        model_config: Its configuration.
        quant: How frozen weights are stored.
        empty: The model without weights.
        device: The device of the model.
    """
    kind = bitsandbytes_kind(model_config, quant)
    if kind in FOUR_BITS or stored_quantization(model_config) is not None:
        linears = inner_linears(empty)
        check_fp8_blocks(model_config, linears, config.path)
        if kind in FOUR_BITS:
            check_4bit_sizes(linears, device, kind)


def skip_towers_in_quantization(quantization_config: BitsAndBytesConfig, empty: PreTrainedModel) -> None:
    """Exclude everything outside the language model from quantization; the config is changed in place."""
    if towers := non_language_modules(empty):
        head = empty.get_output_embeddings()
        heads = [name for name, module in empty.named_modules() if module is head]
        quantization_config.llm_int8_skip_modules = [*towers, *heads]


def weights_dtype(config: ModelConfig, full: bool, compute_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the loaded weights; see ModelConfig.dtype."""
    if config.dtype is Dtype.auto:
        return torch.float32 if full else compute_dtype
    return DTYPES[config.dtype]


def empty_model(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """Build the model on torch's meta device: it has names and shapes, but takes no memory.

    Raises:
        SftError: A part of the model needs a library that is not installed (the towers of Gemma 3n need timm), or
            transformers cannot build a causal language model from this configuration (MusicGen's).
    """
    try:
        with torch.device("meta"):
            return auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except ImportError as error:
        library = MISSING_LIBRARY.search(str(error))
        package = DISTRIBUTIONS.get(library[1], library[1]) if library else "NAME"
        raise SftError(
            where=f"model type {config.model_type}",
            problem=str(error).strip().splitlines()[0],
            fix=f"pip install {package}",
        ) from error
    except MODEL_CODE_ERRORS as error:
        raise SftError(
            where=f"model type {config.model_type}",
            problem=f"transformers cannot build a causal language model from its config.json: {first_line(error)}",
            fix="repair config.json, or model.path=DIR_OR_HUB_ID",
        ) from error


def model_context_length(config: PretrainedConfig) -> int | None:
    """Return the largest number of tokens that the model takes; None for families without a limit (BLOOM, Mamba)."""
    return context_window.max_positions(config.get_text_config().to_dict())


def inner_linears(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """Return the linear layers of the language model except the head, by name; these are quantized or adapted."""
    head, layers = model.get_output_embeddings(), language_modules(model)
    return {
        name: layer for name, layer in layers.items() if layer is not head and isinstance(layer, nn.Linear | Conv1D)
    }
