"""BitFit and training by pattern: trained and frozen weights, their dtypes, and that the loss falls."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, OPTConfig, Qwen2MoeConfig

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind
from sft_cli.errors import SftError
from sft_cli.model.adapter import base_weights
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel

SIZES = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BITFIT = AdapterConfig(kind=AdapterKind.bitfit)


def build_model(base_config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(base_config).train()


def pattern(**values):
    return AdapterConfig(kind=AdapterKind.none, **values)


def trained(model, config):
    base_weights.select_trainable(model, config)
    return [name for name, value in model.named_parameters() if value.requires_grad]


def test_bitfit_trains_the_biases_of_qwen2(build):
    """By hand: only the query, key and value projections have a bias."""
    names = trained(build("qwen2"), BITFIT)
    assert names == [f"model.layers.{i}.self_attn.{part}_proj.bias" for i in range(2) for part in "qkv"]


@pytest.mark.parametrize(
    ("base_config", "some", "none"),
    [
        pytest.param(
            OPTConfig(vocab_size=160, hidden_size=64, ffn_dim=96, num_hidden_layers=1, num_attention_heads=4,
                      word_embed_proj_dim=64),
            {"model.decoder.layers.0.fc1.bias", "model.decoder.final_layer_norm.bias"},
            set(),
            id="opt-with-norms",
        ),
        pytest.param(
            GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
            {"model.layers.0.mlp.experts.down_proj_bias", "model.layers.0.self_attn.o_proj.bias"},
            {"model.layers.0.mlp.router.bias", "model.layers.0.self_attn.sinks"},
            id="gpt-oss-without-routers",
        ),
    ],
)  # fmt: skip
def test_bitfit_on_other_families(base_config, some, none):
    names = set(trained(build_model(base_config), BITFIT))
    assert some <= names
    assert not none & names
    assert all(name.endswith("bias") for name in names)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (pattern(train=[r"layers\.1\."], freeze=["norm"]), "in layer 1, no norms"),
        (pattern(train=["lm_head", r"^model\.norm"]), "head and last norm"),
        (pattern(freeze=["layers", "embed"]), "head and last norm"),
        (pattern(), "everything"),
    ],
)
def test_patterns_select_parameters(build, config, expected):
    model = build("llama")
    rules = {
        "in layer 1, no norms": lambda name: ".1." in name and "norm" not in name,
        "head and last norm": lambda name: name in ("lm_head.weight", "model.norm.weight"),
        "everything": lambda name: True,
    }
    names = [name for name, _ in model.named_parameters()]
    assert trained(model, config) == [name for name in names if rules[expected](name)]


@pytest.mark.parametrize(
    ("base_config", "router"),
    [
        (MixtralConfig(**SIZES, num_local_experts=4), "model.layers.0.mlp.gate.weight"),
        (Qwen2MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                        shared_expert_intermediate_size=32), "model.layers.0.mlp.gate.weight"),
        (GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
         "model.layers.0.mlp.router.weight"),
    ],
)  # fmt: skip
def test_routers_stay_frozen_by_default(base_config, router):
    model = build_model(base_config)
    left = {name for name, _ in model.named_parameters()} - set(trained(model, pattern()))
    assert router in left
    assert all({"gate", "router", "shared_expert_gate"} & set(name.split(".")) for name in left)
    assert set(trained(model, pattern(router=True))) - left
    assert router in trained(model, pattern(router=True))
    assert trained(model, pattern(train=[r"\.(gate|router)\.weight"]))[0] == router


@pytest.mark.parametrize(
    ("family", "config"),
    [("qwen2", BITFIT), ("gpt2", BITFIT), ("llama", pattern(train=[r"layers\.1\.", "norm"]))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selected_weights_learn_and_others_stay(build, make_batch, family, config, dtype):
    """Under autocast frozen matrices have its dtype and trained weights are float32."""
    model = build(family)
    names = set(trained(model, config))
    base_weights.cast_frozen(model, dtype)
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert {kinds[name] for name in names} == {torch.float32}
    matrices = {kinds[name] for name, value in model.named_parameters() if value.dim() > 1 and name not in names}
    assert matrices == {dtype}
    frozen = {name: value.detach().clone() for name, value in model.named_parameters() if name not in names}
    use_packed_attention(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss_model, batch = LossModel(model, packed=True, chunk=4), make_batch([6, 5, 9])
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        pytest.param(
            "llama",
            BITFIT,
            "adapter.kind=bitfit: a llama has no biases to train\n"
            "  fix: adapter=ia3, which trains about as few parameters, or adapter=lora",
            id="no-biases",
        ),
        pytest.param(
            "llama",
            pattern(train=["lm_haed"]),
            "adapter.train: 'lm_haed' matches no parameter of this model\n"
            "  fix: adapter.train=[lm_head.weight];"
            " the nearest names: lm_head.weight, model.embed_tokens.weight, model.norm.weight",
            id="typo",
        ),
        pytest.param(
            "llama",
            pattern(freeze=["layers[0"]),
            "adapter.freeze: 'layers[0' is not a regular expression: unterminated character set at position 6\n"
            r"  fix: write it as Python's re does, as in adapter.freeze=['layers\.0\.']",
            id="expression",
        ),
        pytest.param(
            "llama",
            pattern(train=["norm"], freeze=["norm", "embed"]),
            "adapter.freeze: every parameter that would be trained is frozen\n"
            "  fix: adapter=lora, which freezes the whole base, or remove a pattern from adapter.freeze",
            id="nothing-left",
        ),
    ],
)
def test_wrong_patterns_are_refused(build, family, config, message):
    with pytest.raises(SftError) as caught:
        base_weights.select_trainable(build(family), config)
    assert str(caught.value) == message
