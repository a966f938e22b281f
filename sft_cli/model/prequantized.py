"""Checkpoints that are stored quantized: settings for loading them, and checks whether they can be trained on."""

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
"""Quantization methods whose kernels have no backward pass: such weights are dequantized on loading."""
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
"""Model types that multiply their weights by a factor whenever they change between training and evaluation mode."""
PLAIN_WEIGHTS_FIX = "model.path=DIR_OR_HUB_ID of the same model in float32, bfloat16, float16"


def stored_quantization(config: PretrainedConfig) -> dict[str, Any] | None:
    """Return the ``quantization_config`` of a checkpoint; None for plain weights."""
    settings = vars(config).get("quantization_config")
    return None if settings is None else dict(settings)


def quantization_method(settings: dict[str, Any]) -> str:
    """Return the name of the quantization method; the oldest checkpoints of bitsandbytes do not have one."""
    return str(settings.get("quant_method", "bitsandbytes"))


def bitsandbytes_kind(model_config: PretrainedConfig, quant: QuantConfig) -> QuantKind:
    """Return the format in which bitsandbytes stores the weights: that of the config, or of the checkpoint."""
    settings = stored_quantization(model_config)
    if settings is None or quantization_method(settings) != "bitsandbytes":
        return quant.kind
    if settings.get("load_in_8bit"):
        return QuantKind.int8
    return QuantKind(settings.get("bnb_4bit_quant_type", "fp4"))


def check_quantization(model_config: PretrainedConfig, config: ModelConfig, quant: QuantConfig, *, full: bool) -> None:
    """Check that the weights can be stored as configured, or loaded and trained on as the checkpoint stores them.

    Raises:
        SftError: They cannot, or the config quantizes or trains weights that are already quantized.
    """
    if model_config.model_type in RESCALING_MODEL_TYPES and quant.kind is not QuantKind.none:
        raise SftError(
            where=f"quant.kind={quant.kind.value}",
            problem=f"{model_config.model_type} rescales its weights for evaluation, which is impossible if quantized",
            fix="quant=none",
        )
    settings = stored_quantization(model_config)
    if settings is None:
        return
    name, where = quantization_method(settings), f"model.path={config.path}"
    if quant.kind is not QuantKind.none:
        raise SftError(
            where=f"quant.kind={quant.kind.value}",
            problem=f"the checkpoint is already quantized, as {name}",
            fix=f"quant=none keeps its storage, or {PLAIN_WEIGHTS_FIX}",
        )
    if full and name not in DEQUANTIZED_METHODS:
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored quantized, as {name}, and quantized weights cannot be trained",
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
            problem=f"the checkpoint is stored as {name}, which has no backward pass",
            fix=PLAIN_WEIGHTS_FIX,
        )


def check_fp8_blocks(
    model_config: PretrainedConfig, linears: Mapping[str, nn.Linear | Conv1D], path: str | None
) -> None:
    """Refuse the first layer of an fp8 checkpoint whose sizes are not multiples of its blocks.

    transformers 5.23 spreads the scales evenly over such a layer when it dequantizes, so most weights would be wrong.
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
                problem=f"the checkpoint is stored as fp8, and layer {name}, {outputs} x {inputs}, does not consist of"
                f" whole blocks of {rows} x {columns}: transformers dequantizes it wrongly",
                fix=PLAIN_WEIGHTS_FIX,
            )


def dequantize_config(model_config: PretrainedConfig) -> QuantizationConfigMixin | None:
    """Return a config that makes ``from_pretrained`` dequantize weights without a backward pass; None for others."""
    settings = stored_quantization(model_config)
    config_class = DEQUANTIZED_METHODS.get(quantization_method(settings)) if settings is not None else None
    return None if config_class is None else config_class(dequantize=True)


def with_compute_dtype(model_config: PretrainedConfig, dtype: torch.dtype) -> PretrainedConfig:
    """Return the configuration with the compute dtype of 4-bit layers of bitsandbytes set to that of the run."""
    settings = stored_quantization(model_config)
    if settings is None or not settings.get("load_in_4bit"):
        return model_config
    changed = deepcopy(model_config)
    changed.quantization_config = {**settings, "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")}
    return changed


def cast_unquantized(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast all unquantized weights to ``dtype``, in place: transformers keeps the dtypes of the checkpoint."""
    not_converted = tuple(model._keep_in_fp32_modules_strict or ())
    for name, value in model.named_parameters():
        # Some methods store quantized tensors in subclasses that report a floating-point dtype.
        plain = type(value.data) is Tensor and value.dtype in (torch.float32, torch.bfloat16, torch.float16)
        if plain and not any(part in name for part in not_converted):
            value.data = value.data.to(dtype)
