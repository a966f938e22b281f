"""In every family, packed and shared rows give the results of padded rows in plain transformers."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.errors import SftError
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import document_arguments, use_default_attention, use_packed_attention
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.attention.router_replay import router_modules
from sft_cli.model.head.loss_model import LossModel
from tests.model.helpers import (
    FAMILIES,
    LATENT,
    SIZES,
    STATES,
    Tree,
    assert_same_gradients,
    gradients,
    padded_loss,
    tiny,
    tree,
)

TREE = ((6, 5, 4, 7, 9, 4, 3), (-1, 0, 1, 1, 0, 0, -1))
"""Three levels: a prefix of six tokens, longer than the windows, that three documents continue, two of them with
five more tokens in common; two segments of equal length; and a separate document."""

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
LINEARS = {
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt-oss-sinks-moe": ATTENTION,
    "qwen3-moe": ATTENTION,
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "qwen2-moe": ATTENTION,
    "mixtral": ATTENTION,
    "deepseek-v3-latent-moe": {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"},
    "gemma3n": ATTENTION
    | MLP
    | {"0", "1", "2", "linear_left", "linear_right", "correction_coefs", "prediction_coefs", "modality_router"}
    | {"per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"},
    "falcon-h1-hybrid": ATTENTION | MLP | {"in_proj"},
    "mamba2": {"in_proj"},
    "qwen3-next-hybrid": ATTENTION | {"in_proj_qkvz", "in_proj_ba", "out_proj"},
}
"""Last names of the layers that ``all-linear`` adapts, if they differ from attention and MLP.

Experts are not layers, and PEFT 0.21 mistakes the layers of Qwen3-Next's shared expert for experts.
"""


def packed_logits(model, row, ids):
    use_packed_attention(model)
    with torch.no_grad():
        return model(input_ids=ids[None], position_ids=row.positions, **document_arguments(row)).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_packed_and_shared_are_solo(family):
    model, shared = tiny(family), tree(*TREE)
    apart = shared.apart()
    with torch.no_grad():
        solo = [model(input_ids=own[None], use_cache=False).logits[0] for own in apart.ids]
    scale = max(logits.abs().max().item() for logits in solo)

    packed = packed_logits(model, apart.row(), torch.cat(apart.ids)).split([len(own) for own in apart.ids])
    segments = packed_logits(model, shared.row(), torch.cat(shared.ids)).split([len(own) for own in shared.ids])

    for chain, own, expected in zip(shared.chains(), packed, solo, strict=True):
        joined = torch.cat([segments[segment] for segment in chain])
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5 * scale)
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_padded_rows(family):
    """The whole path to the loss, packed, shared and with logits only at trained positions, against all logits."""
    shared = tree(*TREE)
    apart = shared.apart()
    plain, model = tiny(family), tiny(family)
    loss = padded_loss(plain, apart.ids, apart.trained)
    loss.backward()
    expected = gradients(plain)
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=8)

    for layout in (apart, shared):
        ours = loss_model(**layout.arguments())["loss"]
        ours.backward()
        assert ours.item() / len(layout.arguments()["targets"]) == pytest.approx(loss.item() / count(apart), abs=1e-5)
        assert_same_gradients(gradients(model), expected)


def count(layout):
    return int(torch.cat(layout.trained).sum())


@pytest.mark.parametrize("kind", ["gemma2", "vaultgemma", "gemma3_text"])
def test_default_attention_never_loses_a_cap_of_scores(kind):
    """transformers before 5.21 ran Gemma 2 with sdpa, which has no caps: no admitted version may."""
    torch.manual_seed(0)
    special = {"attn_logit_softcapping": 0.5, "sliding_window": 5}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **special})).eval()
    ids = torch.arange(3, 20)[None]

    found = {}
    for attention in ("default", "eager"):
        use_default_attention(model) if attention == "default" else model.set_attn_implementation("eager")
        with torch.no_grad():
            found[attention] = model(input_ids=ids, use_cache=False).logits

    torch.testing.assert_close(found["default"], found["eager"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_probe_packing_of_families(family, dtype):
    result = probe_packing(tiny(family).to(dtype))

    assert (result.packed_ok, result.shared_ok, result.reason) == (True, True, "")


@pytest.mark.parametrize("family", [*FAMILIES, *STATES])
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_all_linear_finds_the_layers(family):
    adapted = add_adapter(tiny(family), AdapterConfig(), [], seed=0).model

    assert {name.rsplit(".", 1)[-1] for name in adapted.targeted_module_names} == LINEARS.get(family, ATTENTION | MLP)


@pytest.mark.parametrize("family", STATES)
def test_stateful_family_trains_with_one_document_per_row(family):
    """The reference is each document alone, because padding changes the rounding of states."""
    apart = tree(*TREE).apart()
    model, plain = tiny(family), tiny(family)
    result, padded = probe_packing(model), padded_loss(plain, apart.ids, apart.trained)
    loss_model, losses = LossModel(model, packed=False, chunk=8), []
    for ids, trained in zip(apart.ids, apart.trained, strict=True):
        losses.append(loss_model(**Tree((ids,), (-1,), (trained,)).arguments())["loss"])
        losses[-1].backward()
        padded_loss(plain, [ids], [trained]).backward()

    assert (result.packed_ok, result.shared_ok, bool(result.reason)) == (False, False, True)
    assert sum(losses).item() / count(apart) == pytest.approx(padded.item() / count(apart), abs=1e-5)
    assert_same_gradients(gradients(model), gradients(plain))


def test_bypassed_mamba_layers_are_refused():
    with pytest.raises(SftError) as refused:
        add_adapter(tiny("falcon-h1-hybrid"), AdapterConfig(target_modules=["q_proj", "out_proj"]), [], seed=0)

    assert str(refused.value) == (
        "adapter.target_modules: 'out_proj' names model.layers.0.mamba.out_proj of a state-space layer, whose weight is"
        " used without calling the layer: an adapter would have no effect\n"
        "  fix: remove out_proj, or adapter.target_modules=[all-linear] for every layer that can be adapted"
    )


@pytest.mark.parametrize(
    ("kind", "special"),
    [
        ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
        ("gpt_oss", {"num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 5}),
        ("deepseek_v3", {**LATENT, "n_routed_experts": 64, "num_experts_per_tok": 6}),
    ],
)
def test_probe_packing_accepts_nearly_tied_experts(kind, special):
    """In bfloat16 some routes always differ between two attention kernels; that alone changes these logits by 0.1."""
    torch.manual_seed(0)
    deep = {**SIZES, "num_hidden_layers": 16, "hidden_size": 128, "head_dim": 32, "initializer_range": 0.1, **special}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **deep)).to(torch.bfloat16)
    result = probe_packing(model)

    assert (result.packed_ok, result.shared_ok, result.reason) == (True, True, "")
    assert not any(module._forward_hooks for module in router_modules(model))


@pytest.mark.parametrize("name", ["resid_pdrop", "attn_pdrop", "embd_pdrop"])
def test_probe_packing_of_a_model_with_own_dropout(name):
    torch.manual_seed(0)
    kind, special = FAMILIES["gpt2"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **special, name: 0.1}))
    model.train()
    state = torch.get_rng_state()
    result = probe_packing(model)

    assert (result.packed_ok, result.shared_ok) == (True, False)
    assert result.reason == "the model's own dropout must differ between examples"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
