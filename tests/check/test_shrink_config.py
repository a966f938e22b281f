"""Small models keep the properties that determine the computation."""

import pytest
from transformers import AutoConfig

from sft_cli.check.torch_checks.shrink_config import shrink_config, shrink_layer_list
from sft_cli.model.load import empty_model, inner_linears
from sft_cli.model.quant import layer_features

FAMILIES = {
    "llama": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
              "num_key_value_heads": 8, "vocab_size": 1000},
    "qwen2": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
              "num_key_value_heads": 4, "vocab_size": 1000},
    "mistral": {"sliding_window": 4096, "vocab_size": 1000},
    "gemma2": {"vocab_size": 1000, "sliding_window": 4096},
    "gemma3_text": {"vocab_size": 1000},
    "qwen3_moe": {"vocab_size": 1000},
    "gpt_oss": {"vocab_size": 1000},
    "phi3": {"vocab_size": 1000, "pad_token_id": 0},
    "olmo2": {"vocab_size": 1000, "pad_token_id": 0, "eos_token_id": 2},
    "granite": {"vocab_size": 1000},
    "smollm3": {"vocab_size": 1000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gpt2": {"vocab_size": 1000},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_small_and_of_the_same_kind(family):
    large = AutoConfig.for_model(family, **FAMILIES[family])
    before = large.to_dict()
    small = shrink_config(large)
    assert large.to_dict() == before
    model = empty_model(small, trust_remote_code=False)
    assert type(model) is type(empty_model(large, trust_remote_code=False))
    assert sum(value.numel() for value in model.parameters()) < 6e6
    assert all(size % 64 == 0 for layer in inner_linears(model).values() for size in layer_features(layer))
    kept = ("vocab_size", "attn_logit_softcapping", "tie_word_embeddings", "rope_theta", "hidden_act")
    assert all(small.to_dict().get(name) == before.get(name) for name in kept)


def test_shrinking_keeps_groups_windows_and_experts():
    small = shrink_config(AutoConfig.for_model("qwen3_moe"))
    assert (small.num_attention_heads, small.num_key_value_heads) == (2, 1)
    assert (small.num_experts, small.num_experts_per_tok) == (4, 2)
    gemma = shrink_config(AutoConfig.for_model("gemma3_text"))
    assert gemma.sliding_window == 16
    assert set(gemma.layer_types) == {"sliding_attention", "full_attention"}
    assert len(gemma.layer_types) == gemma.num_hidden_layers


@pytest.mark.parametrize(
    ("layers", "values", "few"),
    [
        pytest.param(32, {}, 2, id="all-alike"),
        pytest.param(1, {}, 1, id="only-one"),
        pytest.param(6, {"kinds": ["a", "a", "a", "b", "a", "b"]}, 4, id="up-to-the-last-new-kind"),
        pytest.param(4, {"kinds": ["a", "a", "b", "b"], "more": [1, 0, 1, 0]}, 4, id="kinds-together"),
        pytest.param(40, {"kinds": ["a"] * 39 + ["b"]}, 8, id="never-many"),
    ],
)
def test_enough_layers_for_every_kind_are_kept(layers, values, few):
    assert shrink_layer_list(layers, values) == few
