"""Checkpoints that are stored quantised already: what transformers makes of them, and what cannot run here."""

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
from sft_cli.model.quant import features

UNPACKED = {
    "mxfp4": Mxfp4Config,
    "fp8": FineGrainedFP8Config,
}
"""Storages whose kernels have no backward pass: they are unpacked into plain weights while loading."""
PACKAGES = {
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
"""What transformers loads a storage with, as pip knows it."""
RESCALED = {"rwkv"}
"""Model types that multiply their weights by a factor on every change between training and evaluation."""
PLAIN = "name the same model in float32, bfloat16 or float16"


def storage(config: PretrainedConfig) -> dict[str, Any] | None:
    """What ``config.json`` says of how the weights are quantised; None for plain weights."""
    found = vars(config).get("quantization_config")
    return None if found is None else dict(found)


def method(stored: dict[str, Any]) -> str:
    """The name of a storage; the oldest checkpoints of bitsandbytes do not say it."""
    return str(stored.get("quant_method", "bitsandbytes"))


def kind_of(own: PretrainedConfig, quant: QuantConfig) -> QuantKind:
    """How bitsandbytes stores the weights: as the run asks for, or as the checkpoint does."""
    stored = storage(own)
    if stored is None or method(stored) != "bitsandbytes":
        return quant.kind
    if stored.get("load_in_8bit"):
        return QuantKind.int8
    return QuantKind(stored.get("bnb_4bit_quant_type", "fp4"))


def refuse_storage(own: PretrainedConfig, config: ModelConfig, quant: QuantConfig, *, full: bool) -> None:
    """Return if the weights can be stored as asked for, or are stored in a way that can be loaded here and trained on.

    Raises:
        SftError: They cannot, or the config asks for another storage, or for training them.
    """
    if own.model_type in RESCALED and quant.kind is not QuantKind.none:
        raise SftError(
            where=f"quant.kind={quant.kind.value}",
            problem=f"{own.model_type} rescales its weights whenever it is evaluated, and quantised ones cannot be",
            fix="quant=none",
        )
    stored = storage(own)
    if stored is None:
        return
    name, where = method(stored), f"model.path={config.path}"
    if quant.kind is not QuantKind.none:
        raise SftError(
            where=f"quant.kind={quant.kind.value}",
            problem=f"the checkpoint is stored quantised already, as {name}",
            fix=f"quant=none keeps its storage, or {PLAIN}",
        )
    if full and name not in UNPACKED:
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored quantised, as {name}, and quantised weights cannot be trained",
            fix=f"adapter=lora, or {PLAIN}",
        )
    if name in UNPACKED:
        return
    try:
        loader = AutoHfQuantizer.from_config(deepcopy(stored), pre_quantized=True)
        loader.validate_environment(device_map=None)
        trainable = bool(loader.is_trainable)
    except (ImportError, RuntimeError, ValueError) as error:
        pip = f"pip install {PACKAGES[name]}, or " if name in PACKAGES and isinstance(error, ImportError) else ""
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored as {name}, which cannot be loaded here: {str(error).splitlines()[0]}",
            fix=f"{pip}{PLAIN}",
        ) from error
    if not trainable:
        raise SftError(
            where=where,
            problem=f"the checkpoint is stored as {name}, which gradients do not pass through",
            fix=PLAIN,
        )


def refuse_odd_blocks(own: PretrainedConfig, linears: Mapping[str, nn.Linear | Conv1D], path: str | None) -> None:
    """A sentence for the first layer of an fp8 checkpoint that its blocks do not divide.

    transformers 5.23 spreads the factors evenly over such a layer while unpacking, so most weights would be wrong.
    """
    stored = storage(own)
    if stored is None or method(stored) != "fp8" or stored.get("weight_block_size") is None:
        return
    kept = tuple(stored.get("modules_to_not_convert") or ())
    rows, columns = stored["weight_block_size"]
    for name, layer in linears.items():
        inputs, outputs = features(layer)
        odd = (outputs > rows and outputs % rows) or (inputs > columns and inputs % columns)
        if odd and not any(part in name for part in kept):
            raise SftError(
                where=f"model.path={path}",
                problem=f"the checkpoint is stored as fp8, and layer {name}, {outputs} x {inputs}, is not made of whole"
                f" blocks of {rows} x {columns}: transformers unpacks it wrongly",
                fix=PLAIN,
            )


def unpacking(own: PretrainedConfig) -> QuantizationConfigMixin | None:
    """What ``from_pretrained`` is told to get plain weights out of a storage that cannot be trained on."""
    stored = storage(own)
    known = UNPACKED.get(method(stored)) if stored is not None else None
    return None if known is None else known(dequantize=True)


def computing_in(own: PretrainedConfig, dtype: torch.dtype) -> PretrainedConfig:
    """The configuration with the type that bitsandbytes multiplies 4-bit weights in set to the run's."""
    stored = storage(own)
    if stored is None or not stored.get("load_in_4bit"):
        return own
    changed = deepcopy(own)
    changed.quantization_config = {**stored, "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")}
    return changed


def plain_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Bring what is not quantised to ``dtype``, in place: transformers leaves it as such a checkpoint stores it."""
    kept = tuple(model._keep_in_fp32_modules_strict or ())
    for name, value in model.named_parameters():
        # Some storages are tensors of their own class, which say they are floating point.
        plain = type(value.data) is Tensor and value.dtype in (torch.float32, torch.bfloat16, torch.float16)
        if plain and not any(part in name for part in kept):
            value.data = value.data.to(dtype)
