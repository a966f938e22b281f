"""The memory estimate equals real parameters and the tensors that autograd saves."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    JetMoeConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    Qwen3MoeConfig,
)

from sft_cli.config.model_files.context_window import read_context_length
from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, QuantConfig, QuantKind, TrainStopToken, VeraConfig
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import packed_row_arguments, use_packed_attention
from sft_cli.model.device import ComputeSetup
from sft_cli.model.load import model_context_length
from sft_cli.model.memory import saved_activations
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing, choose_checkpointing
from sft_cli.model.memory.layer_memory import LiveBytes, track_layers
from sft_cli.model.memory.measure import estimate_memory
from sft_cli.model.quant import causal_lm
from sft_cli.model.speed.fused_lora import fuse_lora
from sft_cli.model.speed.rms_norm import replace_rms_norms

CPU = torch.device("cpu")
FULL, LORA = AdapterConfig(kind=AdapterKind.none), AdapterConfig(rank=16, train_stop_token=TrainStopToken.never)


def llama(**changes):
    sizes = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    return LlamaConfig(**{**sizes, **changes})


def estimate_for(
    config,
    adapter,
    *,
    quant=QuantKind.none,
    tokens=1024,
    dtype=torch.bfloat16,
    kl=0.0,
    optimizer_bytes=8.0,
    document=None,
    device=CPU,
    **speed,
):
    return estimate_memory(
        config, ModelConfig(), QuantConfig(kind=quant), adapter, SpeedConfig(logits_chunk=256, **speed),
        LossConfig(kl=kl), tokens=tokens, setup=ComputeSetup(device, dtype), optimizer_bytes=optimizer_bytes,
        document=document,
    )  # fmt: skip


OPT_DRAWS = pytest.mark.skipif(
    transformers.__version__.startswith(("5.21", "5.22")),
    reason="OPT draws a number for each layer, which fake tensors do not have",
)
MAPPED = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": (LlamaConfig(**MAPPED, intermediate_size=192, max_position_embeddings=96), 96),
    "gemma2": (Gemma2Config(**MAPPED, intermediate_size=192, num_key_value_heads=2, head_dim=16), 8192),
    "moe": (
        Qwen3MoeConfig(**MAPPED, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
        32768,
    ),
    "gpt2": (GPT2Config(**MAPPED, n_positions=96), 96),
    "gptj": (GPTJConfig(**MAPPED, n_positions=96, rotary_dim=8), 96),
    "opt": (OPTConfig(**MAPPED, ffn_dim=256, word_embed_proj_dim=64, max_position_embeddings=96), 96),
    "falcon": (FalconConfig(**MAPPED, max_position_embeddings=96), 96),
    "bloom": (BloomConfig(**MAPPED), None),
    "mpt": (MptConfig(**MAPPED), 2048),
    "mamba": (MambaConfig(vocab_size=160, hidden_size=64, num_hidden_layers=2, state_size=4), None),
}


@pytest.mark.every_change("llama")
@pytest.mark.parametrize("family", [pytest.param(name, marks=OPT_DRAWS if name == "opt" else ()) for name in FAMILIES])
def test_estimate_memory_of_families(family):
    config, context = FAMILIES[family]
    memory = estimate_for(config, FULL if family == "mamba" else LORA, tokens=192)
    assert len(memory.saved.layers) == 2
    assert memory.saved.layer_input == 192 * 64 * (4 if family == "mamba" else 2)
    assert min(memory.saved.layers) > 10 * memory.saved.layer_input
    assert memory.training > 0
    assert model_context_length(config) == context


@pytest.mark.parametrize("family", FAMILIES)
def test_context_of_a_saved_config(family, tmp_path):
    """The context length that preparation reads without torch is that of the loaded model."""
    config, context = FAMILIES[family]
    config.save_pretrained(tmp_path)
    assert read_context_length(str(tmp_path)) == context


@pytest.mark.every_change("gpt2")
@pytest.mark.parametrize("family", FAMILIES)
def test_share_identical_layers_is_exact(family, monkeypatch):
    """Six layers, every second one with a window in Gemma 2; a layer with another rank is not identical."""
    config = copy.deepcopy(FAMILIES[family][0])
    config.num_hidden_layers = 6
    adapter = FULL if family == "mamba" else LORA
    if family == "gemma2":
        config.layer_types = ["sliding_attention", "full_attention"] * 3
        adapter = AdapterConfig(rank_pattern={r".*layers\.3\..*": 2}, train_stop_token=TrainStopToken.never)
    found = estimate_for(config, adapter, tokens=192).saved
    monkeypatch.setattr(saved_activations, "share_identical_layers", lambda _: {})
    alone = estimate_for(config, adapter, tokens=192).saved
    assert replace(found, rest=0) == replace(alone, rest=0)
    assert found.rest == pytest.approx(alone.rest, abs=0.02 * sum(alone.layers))


KINDS = {
    "lora": LORA,
    "patterns": AdapterConfig(rank_pattern={r".*layers\.0\..*": 2}, train_stop_token=TrainStopToken.never),
    "dora": AdapterConfig(dora=True, train_stop_token=TrainStopToken.never),
    "head": AdapterConfig(modules_to_save=["lm_head"], train_stop_token=TrainStopToken.never),
    "vera": AdapterConfig(kind=AdapterKind.vera, vera=VeraConfig(rank=8)),
    "ia3": AdapterConfig(kind=AdapterKind.ia3),
    "oft": AdapterConfig(kind=AdapterKind.oft),
    "prefix": AdapterConfig(kind=AdapterKind.prefix),
    "prompt": AdapterConfig(kind=AdapterKind.prompt),
    "llama_adapter": AdapterConfig(kind=AdapterKind.llama_adapter),
    "partial": AdapterConfig(kind=AdapterKind.none, train=[r"layers\.3\."]),
    "full": FULL,
}


@pytest.mark.every_change("lora", "dora")
@pytest.mark.parametrize("kind", KINDS)
def test_num_trained_equals_the_real_model(kind):
    real = add_adapter(AutoModelForCausalLM.from_config(llama()), KINDS[kind], [], seed=0)
    assert estimate_for(llama(), KINDS[kind]).num_trained == real.trainable


def test_estimate_memory_of_llama_8b_by_hand():
    """8.03e9 parameters, 6.98e9 of them in the layers; LoRA r=16 trains 41.9e6."""
    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                         num_attention_heads=32, num_key_value_heads=8)  # fmt: skip
    memory = estimate_for(config, LORA, quant=QuantKind.nf4, tokens=4096, device=torch.device("cuda"))
    gib = 2**30
    assert memory.num_trained == 41_943_040
    assert memory.training / gib == pytest.approx(0.625)
    assert memory.weights / gib == pytest.approx(3.35 + 1.96, rel=0.01)
    assert memory.logits == pytest.approx(256 * 128256 * (2 + 4 + 4), rel=0.05)
    assert memory.saved.layer_input == 4096 * 4096 * 2
    assert memory.saved.attention == 4096 * 4096 * 2 + 32 * 4096 * 4
    assert memory.activations(Checkpointing.full, 32) / gib == pytest.approx(32 / 32 + 0.45, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_fine_tuning_takes_sixteen_bytes_per_parameter(dtype):
    memory = estimate_for(llama(), FULL, dtype=dtype)
    assert (memory.weights, memory.training) == (0, 16 * memory.num_trained)


@pytest.mark.parametrize(
    ("settings", "per_parameter"),
    [
        ({"optimizer_bytes": 2.0}, 10),
        ({"kl": 0.1}, 20),
    ],
    ids=str,
)
def test_bytes_per_trained_parameter(settings, per_parameter):
    """Value and gradient in float32, and optimizer state; an adapter needs no copy for KL."""
    memory = estimate_for(llama(), FULL, **settings)
    assert memory.training == per_parameter * memory.num_trained
    adapter = estimate_for(llama(), LORA, **settings)
    assert adapter.training == (16 if "kl" in settings else per_parameter) * adapter.num_trained


@pytest.mark.parametrize(
    ("quant", "per_parameter"),
    [(QuantKind.none, 2.0), (QuantKind.int8, 1.0), (QuantKind.nf4, 0.5158691), (QuantKind.fp4, 0.5158691)],
)
def test_bytes_per_frozen_parameter(quant, per_parameter):
    """Four layers: 2 x 256 x 256 and 2 x 256 x 128 in attention, 3 x 256 x 640 in the MLP."""
    inner, other = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 640), 2 * 512 * 256 + 9 * 256
    assert estimate_for(llama(), LORA, quant=quant).weights == pytest.approx(
        inner * per_parameter + other * 2, rel=1e-6
    )


@pytest.mark.every_change("fused-dtype1-three", "peft-dtype0-none", "full-dtype0-all")
@pytest.mark.parametrize("layers", [0, 3, 8], ids=["none", "three", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["full", "peft", "fused"])
def test_estimated_activations_equal_tensors_saved_by_autograd(kind, dtype, layers):
    """Within 5% of the real model with packed attention in training precision; 15% if only inputs are saved.

    The estimate includes live tensors that autograd does not save, such as positions that all layers get.

    At the end of a forward pass, recomputed layers hold only their inputs. The estimate adds the tensors of one layer,
    because the backward pass recomputes one layer at a time.
    """
    tokens, config = 320, llama(num_hidden_layers=8)
    adapter, machine = FULL if kind == "full" else LORA, ComputeSetup(CPU, dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if kind == "full" else dtype)
    model = add_adapter(model, adapter, [], seed=0).model.train()
    use_packed_attention(model)
    if kind == "fused":
        replace_rms_norms(model)
        with machine.precision():
            fuse_lora(model)
    apply_checkpointing(model, CheckpointingPlan(Checkpointing.layers if layers else Checkpointing.none, layers, ""))
    row = torch.zeros(1, tokens, dtype=torch.long)
    with machine.precision(), track_layers(model, LiveBytes()) as memory, memory.record_saved():
        causal_lm(model).base_model(row, **packed_row_arguments([tokens // 2] * 2, CPU))
    expected = estimate_for(config, adapter, tokens=tokens, dtype=dtype, document=tokens // 2, fused=kind == "fused")
    living = max(expected.saved.layers) if layers == 8 else 0
    mode = Checkpointing.layers if layers else Checkpointing.none
    kept = expected.activations(mode, layers) - living
    assert sum(memory.saved) + memory.saved_outside == pytest.approx(kept, rel=0.15 if layers == 8 else 0.05)


def test_a_family_that_needs_values_has_unknown_activations():
    """JetMoe reads the number of tokens of each expert, so only weights and training state are known."""
    config = JetMoeConfig(
        vocab_size=160, hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_key_value_heads=2,
        kv_channels=16, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    found = estimate_for(config, LORA)
    weights = sum(value.numel() for value in AutoModelForCausalLM.from_config(config).parameters())
    assert found.weights == 2 * weights
    assert found.training > 0
    assert found.saved.layers == (0, 0, 0)
    assert found.saved.unknown.startswith("it needs the values of its tensors (")
    plan = choose_checkpointing(SpeedConfig(), found, 2**30, CPU)
    assert plan.describe() == "recompute nothing (more if memory runs out: activations are not known)"
    full = choose_checkpointing(SpeedConfig(gradient_checkpointing=Checkpointing.full), found, 2**30, CPU)
    assert (full.mode, full.layers) == (Checkpointing.full, 3)
