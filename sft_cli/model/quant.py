"""Quantized base weights: their settings, an evaluation mode that keeps them intact, and dequantization.

On a CPU with AVX512-BF16, bitsandbytes repacks a 4-bit weight the first time its layer runs in evaluation mode on an
input without gradient (``Linear4bit.forward``): its block scales are rounded to bfloat16, later training steps
compute something else, and merging reads garbage. ``evaluation_mode`` prevents this: dropout and checkpointing are off,
but the quantized layers, which otherwise behave the same in both modes, keep ``training = True``.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import QuantConfig, QuantKind
from sft_cli.errors import SftError

NF4_BLOCK = 64
"""Number of weights that share a scale; the sizes of a layer must be multiples of it in CPU kernels."""


def bitsandbytes_config(config: QuantConfig, compute_dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the config for ``from_pretrained``; None leaves the weights as they are."""
    if config.kind is QuantKind.none:
        return None
    if find_spec("bitsandbytes") is None:
        raise SftError(
            where=f"quant.kind={config.kind.value}",
            problem="bitsandbytes, which stores quantized weights, is not installed",
            fix="pip install bitsandbytes, or quant=none",
        )
    if config.kind is QuantKind.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.kind.value,
        bnb_4bit_use_double_quant=config.double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model, also from inside a PEFT wrapper; it includes PEFT's layers."""
    if isinstance(model, PreTrainedModel):
        return model
    from peft import PeftModel

    assert isinstance(model, PeftModel), f"expected a transformers or PEFT model, got {type(model).__name__}"
    inner = model.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    return inner


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the bitsandbytes layers by name."""
    # Importing bitsandbytes takes seconds, and is already done if a model has such layers.
    if "bitsandbytes" not in sys.modules:
        return {}
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit | Linear8bitLt)}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients inside the block, keep 4-bit weights intact, and restore all modes after it."""
    previous = {module: module.training for module in model.modules()}
    model.eval()
    for layer in quantized_layers(model).values():
        layer.training = True
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in previous.items():
            module.training = training


def is_repacked(weight: Tensor | nn.Module) -> bool:
    """Return whether a 4-bit weight was repacked by evaluation mode on a CPU, and differs from the loaded one."""
    state = vars(weight).get("quant_state")
    return state is not None and bool(vars(state).get("packing_format_for_cpu"))


def dequantize(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replace the quantized layers, in place, by plain linear layers with the dequantized values; return the model.

    Args:
        model: A newly loaded quantized model, without an adapter, that never ran in evaluation mode.
        dtype: Dtype of the new weights.
    """
    layers = quantized_layers(model)
    assert layers, "nothing is quantized"
    repacked = [name for name, layer in layers.items() if is_repacked(layer.get_parameter("weight"))]
    assert not repacked, f"{repacked[0]} was repacked by an evaluation; load the model again"
    for name, layer in layers.items():
        plain = dequantize_linear(layer, dtype)
        original_class = vars(layer).get("source_cls", nn.Linear)  # the class that transformers replaced
        model.set_submodule(name, _to_conv1d(plain) if issubclass(original_class, Conv1D) else plain)
    model.hf_quantizer.remove_quantization_config(model)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    for attribute in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        setattr(model, attribute, False)
    return model


def _to_conv1d(layer: nn.Linear) -> Conv1D:
    """Return the same layer as GPT-2's Conv1D, whose weight is ``(in, out)``."""
    conv = Conv1D(layer.out_features, layer.in_features).to(layer.weight.device)
    conv.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
    if layer.bias is not None:
        conv.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return conv


def dequantize_linear(layer: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """Return an ``nn.Linear`` with the dequantized weight ``(out, in)`` of a bitsandbytes layer and its bias."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    weight_data = layer.weight
    if isinstance(weight_data, Params4bit):
        assert isinstance(layer, Linear4bit)
        weight = dequantize_4bit(weight_data.data, weight_data.quant_state)
    else:
        assert isinstance(layer, Linear8bitLt)
        assert isinstance(weight_data, Int8Params)
        # The first forward moves the row scales from the weight to the layer's state.
        scales = weight_data.SCB if layer.state.SCB is None else layer.state.SCB
        weight = int8_vectorwise_dequant(weight_data.data, scales)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    return plain


def layer_features(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """Return the numbers of inputs and outputs; GPT-2's Conv1D is a linear layer whose weight is ``(in, out)``."""
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)


def check_4bit_sizes(linears: Mapping[str, nn.Linear | Conv1D], device: torch.device, kind: QuantKind) -> None:
    """Refuse the first layer whose size the 4-bit kernels for CPUs do not support; CUDA supports any size."""
    for name, layer in linears.items():
        inputs, outputs = layer_features(layer)
        if device.type == "cpu" and (inputs % NF4_BLOCK or outputs % NF4_BLOCK):
            raise SftError(
                where=f"quant.kind={kind.value}",
                problem=f"layer {name} is {inputs} x {outputs};"
                f" {kind.value.upper()} on a CPU needs multiples of {NF4_BLOCK}",
                fix="quant=none or quant=int8, or a machine with a CUDA device",
            )
