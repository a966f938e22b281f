"""Checkpoints that are stored quantised: how transformers loads them, and which cannot run here."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config, QuantizationConfigMixin

from sft_cli.config.schema.adapter import QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.errors import SftError
from sft_cli.model.quant import layer_features

DEQUANTIZED_METHODS = {
    "mxfp4": Mxfp4Config,
    "fp8": FineGrainedFP8Config,
}
"""Quantisation methods whose kernels have no backward pass: they are dequantised while loading."""
PIP_PACKAGES = {
    "gptq": "optimum gptqmodel",
    "awq": "gptqmodel",
    "torchao": "torchao",
    "compressed-tensors": "compressed-tensors",
    "bitsandbytes": "bitsandbytes",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "aqlm": "aqlm[gpu,cpu]",
    "auto-round": "auto-round",
}
"""The pip packages that transformers needs to load a method."""
RESCALING_MODEL_TYPES = {"rwkv"}
"""Model types that multiply their weights by a factor on every change between training and evaluation."""
PLAIN_WEIGHTS_FIX = "name the same model in float32, bfloat16 or float16"


def stored_quantization(config: PretrainedConfig) -> dict[str, Any] | None:
    """Return the ``quantization_config`` of a checkpoint; None for plain weights."""
    found = vars(config).get("quantization_config")
    return None if found is None else dict(found)


def quantization_method(settings: dict[str, Any]) -> str:
    """Return the name of the method; the oldest checkpoints of bitsandbytes do not have one."""
    return str(settings.get("quant_method", "bitsandbytes"))


def bitsandbytes_kind(model_config: PretrainedConfig, quant: QuantConfig) -> QuantKind:
    """Return how bitsandbytes stores the weights: as configured, or as in the checkpoint."""
    settings = stored_quantization(model_config)
    if settings is None or quantization_method(settings) != "bitsandbytes":
        return quant.kind
    if settings.get("load_in_8bit"):
        return QuantKind.int8
    return QuantKind(settings.get("bnb_4bit_quant_type", "fp4"))


def check_quantization(model_config: PretrainedConfig, config: ModelConfig, quant: QuantConfig, *, full: bool) -> None:
    """Check that the weights can be stored as configured, or that the stored form can be loaded and trained on here.

    Raises:
        SftError: They cannot, or the config asks for another storage, or for training them.
    """
    if model_config.model_type in RESCALING_MODEL_TYPES and quant.kind is not QuantKind.none:
        raise SftError(
            where=f"quant.kind={quant.kind.value}",
            problem=f"{model_config.model_type} rescales its weights for evaluation, but quantised ones cannot be",
            fix="quant=none",
        )
    settings = stored_quantization(model_config)
    if settings is None:
        return
    name, where = quantization_method(settings), f"model.path={config.path}"
    if quant.kind is not QuantKind.none:
        raise SftError(
            where=f"quant.kind={quant.kind.value}",
            problem=f"the checkpoint is stored quantised already, as {name}",
            fix=f"quant=none keeps its storage, or {PLAIN_WEIGHTS_FIX}",
        )
    if full and name not in DEQUANTIZED_METHODS:
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored quantised, as {name}, and quantised weights cannot be trained",
            fix=f"adapter=lora, or {PLAIN_WEIGHTS_FIX}",
        )
    if name in DEQUANTIZED_METHODS:
        return
    try:
        loader = AutoHfQuantizer.from_config(deepcopy(settings), pre_quantized=True)
        loader.validate_environment(device_map=None)
        trainable = bool(loader.is_trainable)
    except (ImportError, RuntimeError, ValueError) as error:
        pip = (
            f"pip install {PIP_PACKAGES[name]}, or " if name in PIP_PACKAGES and isinstance(error, ImportError) else ""
        )
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored as {name}, which cannot be loaded here: {str(error).splitlines()[0]}",
            fix=f"{pip}{PLAIN_WEIGHTS_FIX}",
        ) from error
    if not trainable:
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored as {name}, which gradients do not pass through",
            fix=PLAIN_WEIGHTS_FIX,
        )


def check_fp8_blocks(
    model_config: PretrainedConfig, linears: Mapping[str, nn.Linear | Conv1D], path: str | None
) -> None:
    """Refuse the first layer of an fp8 checkpoint whose sizes are not multiples of its blocks.

    transformers 5.23 spreads the factors evenly over such a layer while dequantising, so most weights would be wrong.
    """
    settings = stored_quantization(model_config)
    if settings is None or quantization_method(settings) != "fp8" or settings.get("weight_block_size") is None:
        return
    not_converted = tuple(settings.get("modules_to_not_convert") or ())
    rows, columns = settings["weight_block_size"]
    for name, layer in linears.items():
        inputs, outputs = layer_features(layer)
        uneven = (outputs > rows and outputs % rows) or (inputs > columns and inputs % columns)
        if uneven and not any(part in name for part in not_converted):
            raise SftError(
                where=f"model.path={path}",
                problem=f"the checkpoint is stored as fp8, and layer {name}, {outputs} x {inputs}, is not made of whole"
                f" blocks of {rows} x {columns}: transformers unpacks it wrongly",
                fix=PLAIN_WEIGHTS_FIX,
            )


def dequantize_config(model_config: PretrainedConfig) -> QuantizationConfigMixin | None:
    """Return the config with which ``from_pretrained`` dequantises weights that cannot be trained on; else None."""
    settings = stored_quantization(model_config)
    config_class = DEQUANTIZED_METHODS.get(quantization_method(settings)) if settings is not None else None
    return None if config_class is None else config_class(dequantize=True)


def with_compute_dtype(model_config: PretrainedConfig, dtype: torch.dtype) -> PretrainedConfig:
    """Return the configuration with the compute type of bitsandbytes' 4-bit layers set to the run's."""
    settings = stored_quantization(model_config)
    if settings is None or not settings.get("load_in_4bit"):
        return model_config
    changed = deepcopy(model_config)
    changed.quantization_config = {**settings, "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")}
    return changed


def cast_unquantized(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast everything that is not quantised to ``dtype``, in place: transformers keeps the checkpoint's types."""
    not_converted = tuple(model._keep_in_fp32_modules_strict or ())
    for name, value in model.named_parameters():
        # Some methods store tensors of a special class that report a floating-point dtype.
        plain = type(value.data) is Tensor and value.dtype in (torch.float32, torch.bfloat16, torch.float16)
        if plain and not any(part in name for part in not_converted):
            value.data = value.data.to(dtype)
