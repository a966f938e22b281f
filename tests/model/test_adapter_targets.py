"""The adapted layers: routers and experts of mixtures, sizes, names and patterns, checked before loading weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM, JetMoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init, OftConfig, TrainStopToken
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter, load_adapter
from sft_cli.model.adapter.stacking import save_adapter
from sft_cli.model.adapter.targets import check_adapter, router_layers
from sft_cli.model.quant import evaluation_mode

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "initializer_range": 0.2,
}  # fmt: skip
MIXTURES = {
    "jetmoe": lambda: JetMoeConfig(**SIZES, num_local_experts=4, kv_channels=16),
    "qwen2-moe": lambda: Qwen2MoeConfig(
        **SIZES, num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=24, decoder_sparse_step=1
    ),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        **SIZES, num_experts=4, moe_intermediate_size=24, decoder_sparse_step=1, head_dim=16
    ),
}
IDS = torch.tensor([[1, 9, 30, 31, 7, 12, 2, 5]])


def mixture(family):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MIXTURES[family]())


def layers(report):
    names = {name for name, value in report.model.named_parameters() if value.requires_grad}
    return {name.split(".lora_")[0].split(".layers.")[1].split(".", 1)[1] for name in names}


@pytest.mark.parametrize(
    ("family", "router"),
    [
        ("jetmoe", {"mlp.router.layer", "self_attention.experts.router.layer"}),
        ("qwen2-moe", {"mlp.shared_expert_gate"}),
        ("qwen3-moe", set()),
    ],
)
def test_routers_get_no_adapter_by_default(family, router):
    model = mixture(family)
    assert {name.split(".", 3)[3] for name in router_layers(model)} == router
    alone = layers(add_adapter(model, AdapterConfig(rank=2), [], seed=0))
    with_router = layers(add_adapter(mixture(family), AdapterConfig(rank=2, router=True), [], seed=0))
    assert with_router - alone == router
    assert {name.rsplit(".", 1)[-1] for name in alone} >= {"jetmoe": {"kv_proj"}}.get(family, {"q_proj", "o_proj"})
    assert not any("mlp.experts" in name for name in alone)


def test_a_dense_model_has_no_routers(build):
    assert router_layers(build("llama")) == []


def test_named_experts_are_adapted(tmp_path):
    """Experts are stacks of matrices, not layers; a note names those without an adapter."""
    untouched = add_adapter(mixture("qwen3-moe"), AdapterConfig(rank=2), [], seed=0)
    assert untouched.notes == (
        "the experts stay frozen: adapter.target_parameters=[mlp.experts.down_proj,mlp.experts.gate_up_proj]"
        " adapts them (LoRA only)",
    )
    config = AdapterConfig(rank=2, target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"])
    report = add_adapter(mixture("qwen3-moe"), config, [], seed=0)
    assert report.notes == ()
    assert report.trainable > untouched.trainable
    optimizer = torch.optim.AdamW([value for value in report.model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = report.model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    with evaluation_mode(report.model):
        after = report.model(input_ids=IDS).logits
    save_adapter(report.model, tmp_path)
    opened = load_adapter(mixture("qwen3-moe"), tmp_path, torch.device("cpu"))
    with evaluation_mode(opened):
        torch.testing.assert_close(opened(input_ids=IDS).logits, after)
    merged = opened.merge_and_unload()
    with evaluation_mode(merged):
        torch.testing.assert_close(merged(input_ids=IDS).logits, after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        (
            "llama",
            AdapterConfig(kind=AdapterKind.oft, oft=OftConfig(block_size=48)),
            "adapter.oft.block_size=48: 48 does not divide the 128 inputs of layer model.layers.0.self_attn.q_proj\n"
            "  fix: adapter.oft.block_size=32, or adapter.target_modules=[all-linear]",
        ),
        (
            "gpt2",
            AdapterConfig(kind=AdapterKind.oft),
            "adapter.kind=oft: OFT supports linear layers only, but transformer.h.0.attn.c_attn is Conv1D\n"
            "  fix: adapter.target_modules=[all-linear], or adapter=lora",
        ),
        (
            "llama",
            AdapterConfig(rank_pattern={r"layers\.0\.": 4}),
            "adapter.rank_pattern: no adapted layer's name, such as model.layers.0.self_attn.q_proj, ends in a match of"
            " 'layers\\\\.0\\\\.'\n"
            "  fix: extend it to the end of the name: '.*layers\\.[0-3]\\..*' selects all of the first four layers",
        ),
        (
            "llama",
            AdapterConfig(modules_to_save=["lm_heat"]),
            "adapter.modules_to_save: 'lm_heat' matches no module of this model\n"
            "  fix: adapter.modules_to_save=[lm_head] is the nearest",
        ),
        (
            "llama",
            AdapterConfig(target_parameters=["experts.down_proj"]),
            "adapter.target_parameters: 'experts.down_proj' matches no matrix of this model\n"
            "  fix: remove it: it has no experts",
        ),
        (
            "llama",
            AdapterConfig(init=Init.pissa, target_modules=["q_proj", "embed_tokens"]),
            "adapter.init=pissa: it reads the matrix of a linear layer, but model.embed_tokens is an embedding\n"
            "  fix: adapter.init=default, or remove embed_tokens from adapter.target_modules",
        ),
    ],
)
def test_unsupported_layers_are_refused(build, family, config, message):
    with pytest.raises(SftError) as caught:
        check_adapter(build(family), config)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [AdapterKind.lora, AdapterKind.vera, AdapterKind.ia3])
def test_kinds_support_conv1d_layers_of_gpt2(build, kind, tmp_path):
    config = AdapterConfig(kind=kind, rank=2)
    check_adapter(build("gpt2"), config)
    model = add_adapter(build("gpt2"), config, [], seed=0).model
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.05
    save_adapter(model, tmp_path)
    with evaluation_mode(model):
        after = model(input_ids=IDS).logits
    merged = load_adapter(build("gpt2"), tmp_path, torch.device("cpu")).merge_and_unload()
    with evaluation_mode(merged):
        torch.testing.assert_close(merged(input_ids=IDS).logits, after, atol=1e-4, rtol=1e-4)


def test_untrained_stop_token_is_refused_for_kinds_without_trained_rows(build):
    base = build("llama")
    base.lm_head.weight.data[100:] = 0.5
    config = AdapterConfig(kind=AdapterKind.ia3)
    with pytest.raises(SftError) as caught:
        add_adapter(base, config, [120], seed=0)
    assert str(caught.value) == (
        "adapter.kind=ia3: the embedding of stop token [120] looks untrained, so the model would never learn to stop,"
        " and only LoRA can train single rows\n"
        "  fix: adapter=lora, or a template with a trained stop token;"
        " adapter.train_stop_token=never skips this check"
    )
    config.train_stop_token = TrainStopToken.never
    assert add_adapter(base, config, [120], seed=0).stop_tokens == ()
