"""Quantised base weights: how they are stored, and how they stay as they were stored.

On a CPU with AVX512-BF16, bitsandbytes repacks a 4-bit weight the first time its layer runs in evaluation mode on an
input without gradient (``Linear4bit.forward``): its block scales are rounded to bfloat16, later training steps
compute something else, and merging reads garbage. ``evaluating`` prevents it: dropout and checkpointing are off, but
the quantised layers, which behave alike in both modes otherwise, keep ``training = True``.
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
"""Weights that share one scale, and the step of sizes that the CPU kernels take."""


def quantization(config: QuantConfig, compute_dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """What ``from_pretrained`` is told; None leaves the weights as they are."""
    if config.kind is QuantKind.none:
        return None
    if find_spec("bitsandbytes") is None:
        raise SftError(
            where=f"quant.kind={config.kind.value}",
            problem="bitsandbytes, which stores quantised weights, is not installed",
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
    """The transformers model itself, also from inside a PEFT wrapper (whose layers sit in it already)."""
    if isinstance(model, PreTrainedModel):
        return model
    from peft import PeftModel

    assert isinstance(model, PeftModel), f"expected a transformers or PEFT model, got {type(model).__name__}"
    inner = model.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    return inner


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The bitsandbytes layers by name."""
    # Importing it takes seconds, and a model that has such layers has imported it already.
    if "bitsandbytes" not in sys.modules:
        return {}
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit | Linear8bitLt)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients that leaves quantised weights untouched; restores every module's mode."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    for layer in quantized_layers(model).values():
        layer.training = True
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before.items():
            module.training = training


def repacked(weight: Tensor | nn.Module) -> bool:
    """Whether a 4-bit weight ran in evaluation mode on a CPU and no longer holds what was loaded."""
    state = vars(weight).get("quant_state")
    return state is not None and bool(vars(state).get("packing_format_for_cpu"))


def dequantized(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The same model, changed in place, with plain linear layers of the values the quantised ones stand for.

    Args:
        model: Freshly loaded with a quantisation, without an adapter, never run in evaluation mode.
        dtype: Type of the new weights.
    """
    layers = quantized_layers(model)
    assert layers, "nothing is quantised"
    spoiled = [name for name, layer in layers.items() if repacked(layer.weight)]
    assert not spoiled, f"{spoiled[0]} was repacked by an evaluation; load the model again"
    for name, layer in layers.items():
        plain = plain_linear(layer, dtype)
        stored_as = vars(layer).get("source_cls", nn.Linear)  # what transformers replaced
        model.set_submodule(name, _turned(plain) if issubclass(stored_as, Conv1D) else plain)
    model.hf_quantizer.remove_quantization_config(model)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        setattr(model, mark, False)
    return model


def _turned(layer: nn.Linear) -> Conv1D:
    """The same layer as GPT-2 has it, whose weight is ``(in, out)``."""
    turned = Conv1D(layer.out_features, layer.in_features).to(layer.weight.device)
    turned.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=False)
    if layer.bias is not None:
        turned.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return turned


def plain_linear(layer: nn.Module, dtype: torch.dtype) -> nn.Linear:
    """An ``nn.Linear`` with the dequantised weight ``(out, in)`` of a bitsandbytes layer and its bias."""
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    stored = layer.weight
    if isinstance(stored, Params4bit):
        assert isinstance(layer, Linear4bit)
        weight = dequantize_4bit(stored.data, stored.quant_state)
    else:
        assert isinstance(layer, Linear8bitLt)
        assert isinstance(stored, Int8Params)
        # The first forward moves the row scales from the weight to the layer's state.
        scales = stored.SCB if layer.state.SCB is None else layer.state.SCB
        weight = int8_vectorwise_dequant(stored.data, scales)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    return plain


def features(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """Numbers of inputs and outputs; GPT-2's Conv1D is a linear layer whose weight is ``(in, out)``."""
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)


def refuse_odd_sizes(linears: Mapping[str, nn.Linear | Conv1D], device: torch.device, kind: QuantKind) -> None:
    """A sentence for the first layer whose size the CPU kernels for four bits cannot take; CUDA takes any."""
    for name, layer in linears.items():
        inputs, outputs = features(layer)
        if device.type == "cpu" and (inputs % NF4_BLOCK or outputs % NF4_BLOCK):
            raise SftError(
                where=f"quant.kind={kind.value}",
                problem=f"layer {name} is {inputs} x {outputs};"
                f" {kind.value.upper()} on a CPU needs multiples of {NF4_BLOCK}",
                fix="quant=none or quant=int8, or train on a CUDA device",
            )


FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Four bits and a float32 scale per 64 weights."""
FOUR_BIT_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""


def inner_bytes(quant: QuantConfig, width: int) -> float:
    """Bytes per parameter of a frozen linear layer."""
    if quant.kind in (QuantKind.nf4, QuantKind.fp4):
        return FOUR_BIT_DOUBLE_BYTES if quant.double_quant else FOUR_BIT_BYTES
    return 1.0 if quant.kind is QuantKind.int8 else float(width)
