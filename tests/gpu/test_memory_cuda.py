"""Recomputing, offloading and the estimate on a CUDA device."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig, TrainStopToken
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import packed_row_arguments, use_packed_attention
from sft_cli.model.device import ComputeSetup, free_memory
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing
from sft_cli.model.memory.measure import estimate_memory
from sft_cli.model.quant import causal_lm
from tests.gpu.device import is_simulated

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
# The workspaces of a real GPU must be small compared with the activations; a simulated one has none.
WIDTH, TOKENS, REPEATS = (256, 512, 1) if is_simulated() else (1024, 4096, 3)
CONFIG = LlamaConfig(vocab_size=1024, hidden_size=WIDTH, intermediate_size=11 * WIDTH // 4, num_hidden_layers=8,
                     num_attention_heads=WIDTH // 64, num_key_value_heads=WIDTH // 256)  # fmt: skip
LORA = AdapterConfig(train_stop_token=TrainStopToken.never)


def adapted():
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16).to("cuda")
    model = add_adapter(base, LORA, [], seed=0).model
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=0.02)
    use_packed_attention(model)
    return model.train()


def forward(model):
    ids = torch.arange(TOKENS, device="cuda")[None] % 1024
    arguments = packed_row_arguments([TOKENS // 4] * 4, torch.device("cuda"))
    with torch.autocast("cuda", torch.bfloat16):
        return causal_lm(model).base_model(ids, **arguments).last_hidden_state


@pytest.mark.parametrize("mode", [Checkpointing.selective, Checkpointing.full, Checkpointing.offload])
def test_recomputing_changes_no_gradient(mode):
    model = adapted()
    found = []
    for recompute in (CheckpointingPlan(Checkpointing.none, 0, ""), CheckpointingPlan(mode, 8, "")):
        apply_checkpointing(model, recompute)
        for _ in range(REPEATS):  # a missing wait for a copy fails in one of the repetitions
            model.zero_grad()
            forward(model).float().pow(2).mean().backward()
            found.append({name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad})
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-2, atol=1e-3 * value.abs().max().item())


@pytest.mark.parametrize(("mode", "layers"), [("none", 0), ("layers", 4), ("full", 8), ("offload", 8)])
def test_allocated_memory_is_the_estimate(mode, layers):
    """Memory at the end of a forward pass; the estimate also includes the recomputed layer or the copy in transfer."""
    machine = ComputeSetup(torch.device("cuda"), torch.bfloat16)
    needed = estimate_memory(
        CONFIG, ModelConfig(), QuantConfig(), LORA, SpeedConfig(fused=False), LossConfig(),
        tokens=TOKENS, setup=machine, optimizer_bytes=8,
    )  # fmt: skip
    model = adapted()
    apply_checkpointing(model, CheckpointingPlan(Checkpointing(mode), layers, ""))
    forward(model)  # libraries allocate their workspaces
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    states = forward(model)
    torch.cuda.synchronize()
    grown = torch.cuda.memory_allocated() - before
    living = max(needed.saved.layers) + (2 * needed.saved.layer_input if mode == "offload" else 0)
    expected = needed.activations(Checkpointing(mode), layers) - (living if layers == 8 else 0)
    assert states.requires_grad
    assert grown == pytest.approx(expected, rel=0.15, abs=2 * needed.saved.layer_input)


def test_free_memory_is_what_the_card_has():
    assert 0 < free_memory(torch.device("cuda", 0)) <= torch.cuda.get_device_properties(0).total_memory
