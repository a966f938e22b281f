"""The estimate is arithmetic; here it meets real parameters and what autograd really saves."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
)

from sft_cli.config.schema import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.model.adapters import add_adapter, save_memory
from sft_cli.model.attention import packed_arguments, use_packed
from sft_cli.model.load import context_length
from sft_cli.model.memory import count, estimate
from sft_cli.model.quant import causal_lm

FULL, LORA = AdapterConfig(kind=AdapterKind.none), AdapterConfig(rank=16)


def llama(**changes):
    sizes = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    return LlamaConfig(**{**sizes, **changes})


def of(config, adapter, *, quant=QuantKind.none, tokens=1024, dtype=torch.bfloat16, chunk=256, checkpointing=False):
    return estimate(
        config, QuantConfig(kind=quant), adapter, tokens=tokens, dtype=dtype, chunk=chunk, checkpointing=checkpointing
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "down_proj"]])
def test_counts_are_those_of_the_real_model(tied, targets):
    config, adapter = llama(tie_word_embeddings=tied), AdapterConfig(rank=4, target_modules=targets)
    sizes = count(config, adapter)
    model = AutoModelForCausalLM.from_config(config)
    whole = sum(value.numel() for value in model.parameters())
    report = add_adapter(model, adapter, [], seed=0)

    assert sizes.inner + sizes.other == whole
    assert sizes.adapted * 4 == report.trainable


MAPPED = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": (LlamaConfig(**MAPPED, intermediate_size=192, max_position_embeddings=96), 96),
    "gpt2": (GPT2Config(**MAPPED, n_positions=96), 96),
    "gptj": (GPTJConfig(**MAPPED, n_positions=96, rotary_dim=8), 96),
    "opt": (OPTConfig(**MAPPED, ffn_dim=256, word_embed_proj_dim=64, max_position_embeddings=96), 96),
    "falcon": (FalconConfig(**MAPPED, max_position_embeddings=96), 96),
    "bloom": (BloomConfig(**MAPPED), None),
    "mpt": (MptConfig(**MAPPED), None),
    "mamba": (MambaConfig(vocab_size=160, hidden_size=64, num_hidden_layers=2), None),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_estimated_and_names_its_context(family):
    config, context = FAMILIES[family]
    memory = of(config, LORA)
    layer = 21 * 64 + 5 * (192 if family == "llama" else 128 if family == "mamba" else 256)
    assert memory.activations == 1024 * 2 * 2 * layer
    assert memory.training > 0
    assert context_length(config) == context


def test_gpt2_layers_are_counted_though_they_are_no_linear_layers():
    """Attention 64 -> 192 and 64 -> 64, MLP 64 -> 256 -> 64."""
    config, _ = FAMILIES["gpt2"]
    sizes = count(config, LORA)
    assert sizes.inner == 2 * (64 * 192 + 64 * 64 + 2 * 64 * 256)
    report = add_adapter(AutoModelForCausalLM.from_config(config), LORA, [], seed=0)
    assert sizes.adapted * 16 == report.trainable


def test_llama_8b_by_hand():
    """8.03e9 parameters, 6.98e9 of them in the layers; LoRA r=16 trains 41.9e6 (PERF: .62 GiB with Adam)."""
    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                         num_attention_heads=32, num_key_value_heads=8)  # fmt: skip
    sizes = count(config, LORA)
    assert sizes.inner == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) == 6_979_321_856
    assert sizes.adapted * 16 == 41_943_040
    memory = of(config, LORA, quant=QuantKind.nf4, tokens=4096, chunk=512, checkpointing=True)
    gib = 2**30
    assert memory.training / gib == pytest.approx(0.625)
    assert memory.weights / gib == pytest.approx(3.35 + 1.96, rel=0.01)
    assert memory.logits == 512 * 128256 * (2 + 8)
    assert memory.total == memory.weights + memory.training + memory.activations + memory.logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_fine_tuning_is_sixteen_bytes_a_parameter(dtype):
    sizes = count(llama(), FULL)
    memory = of(llama(), FULL, dtype=dtype)
    assert (memory.weights, memory.training) == (0, 16 * (sizes.inner + sizes.other))


def saved_bytes(config, adapter, dtype, checkpointing, tokens):
    """Bytes that autograd keeps in a forward pass of the decoder, each storage once, parameters left out."""
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    if adapter.kind is AdapterKind.lora:
        model = add_adapter(model, adapter, [], seed=0).model
    if checkpointing:
        save_memory(model)
    use_packed(model)
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    row = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = causal_lm(model).base_model(row, **packed_arguments([tokens // 2] * 2, torch.device("cpu")))
    assert states.last_hidden_state.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapter", [FULL, LORA], ids=["full", "lora"])
def test_activations_are_what_autograd_keeps(adapter, dtype, checkpointing):
    """Within a quarter. Recomputing keeps layer inputs; the layer being recomputed comes on top in the estimate."""
    config, tokens = llama(num_hidden_layers=8), 128
    expected = of(config, adapter, tokens=tokens, dtype=dtype, checkpointing=checkpointing).activations
    if checkpointing:
        expected -= of(llama(num_hidden_layers=1), adapter, tokens=tokens, dtype=dtype).activations
        assert saved_bytes(config, adapter, dtype, True, tokens) == pytest.approx(expected, rel=0.5)
    else:
        assert saved_bytes(config, adapter, dtype, False, tokens) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    ("quant", "per_parameter"),
    [(QuantKind.none, 2.0), (QuantKind.int8, 1.0), (QuantKind.nf4, 0.5158691)],
)
def test_bytes_of_a_frozen_parameter(quant, per_parameter):
    sizes = count(llama(), LORA)
    weights = of(llama(), LORA, quant=quant).weights
    assert weights == pytest.approx(sizes.inner * per_parameter + sizes.other * 2, rel=1e-6)
