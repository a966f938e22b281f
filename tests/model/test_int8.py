"""8-bit base weights: the product of a row does not depend on other rows, on any device."""

import logging

import bitsandbytes
import pytest
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt
from torch.nn.functional import linear

from sft_cli.config.schema.adapter import QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.int8 import Int8Forward
from sft_cli.model.load import load_model
from sft_cli.model.quant import dequantize_linear, quantized_layers

CPU = torch.device("cpu")


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Let bitsandbytes multiply on a CPU as on CUDA, with its reference kernels."""

    def multiply(states, weight, out=None, state=None, threshold=0.0, bias=None):
        return MatMul8bitLt.apply(states, weight, out, bias, state)

    monkeypatch.setattr(bitsandbytes, "matmul", multiply)


def load(saved, dtype=torch.float32):
    model = load_model(
        ModelConfig(path=str(saved)), QuantConfig(kind=QuantKind.int8), full=False, device=CPU, compute_dtype=dtype
    )
    for name, value in model.named_parameters():
        if "layernorm" in name:
            value.data.fill_(3.0)  # inputs of the layers then exceed LLM.int8()'s threshold in some columns
    return model


@pytest.mark.parametrize("replaced", [True, False])
def test_documents_of_a_row_are_independent(saved, as_on_cuda, replaced, caplog):
    """LLM.int8() selects columns over all rows, and logs a line for every product."""
    model = load(saved, torch.bfloat16)
    if not replaced:
        for layer in quantized_layers(model).values():
            del layer.forward
    with caplog.at_level(logging.WARNING):
        result = probe_packing(model)

    lines = [record for record in caplog.records if record.name.startswith("bitsandbytes")]
    assert (result.packed_ok, not lines) == (replaced, replaced), result.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_product_equals_that_of_the_dequantized_weights(saved, dtype, autocast):
    """Output and gradient, also for float32 inputs under autocast, as after rotary or norm layers."""
    layer = quantized_layers(load(saved, dtype))["model.layers.0.mlp.up_proj"]
    assert isinstance(layer.forward, Int8Forward)
    layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features), requires_grad=False)
    kind = torch.bfloat16 if autocast else dtype
    plain = dequantize_linear(layer, kind)
    states = [torch.randn(1, 5, layer.in_features, dtype=dtype).requires_grad_() for _ in range(2)]
    states[1].data.copy_(states[0].data)
    weight = torch.randn(1, 5, layer.out_features)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = layer(states[0])
        expected = linear(states[1].to(kind), plain.weight, plain.bias)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()

    assert out.dtype == kind
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(states[0].grad, states[1].grad)
    assert layer.weight.grad is None


def test_a_product_saves_only_the_stored_weights(saved):
    layer = quantized_layers(load(saved))["model.layers.0.mlp.up_proj"]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(3, layer.in_features, requires_grad=True))

    assert [tensor.dtype for tensor in kept] == [torch.int8, torch.float32]
    assert kept[0].data_ptr() == layer.weight.data_ptr()
