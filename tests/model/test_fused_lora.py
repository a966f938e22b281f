"""Fused LoRA layers against plain transformers and PEFT."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from rounding import ROUNDING
from transformers import AutoModelForCausalLM, Phi3Config, Qwen3MoeConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention.packing import document_arguments, use_packed_attention
from sft_cli.model.speed import lora_products as fused_products
from sft_cli.model.speed.fused_lora import fuse_lora, unfuse_lora
from sft_cli.model.speed.rms_norm import NormInput, replace_rms_norms

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")

MOE = Qwen3MoeConfig(
    vocab_size=160, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, head_dim=32, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2, pad_token_id=0,
)  # fmt: skip
PHI = Phi3Config(
    vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LENGTHS = (9, 14, 5)

CLOSE = {"rtol": 1.3e-6 * ROUNDING, "atol": 1e-5 * ROUNDING}
"""Torch's tolerance for float32 on the processor on which it was measured."""


def adapted(base, **options):
    """Return a LoRA model whose B matrices are not 0."""
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": False, **options}
    if base.config.model_type == "qwen3_moe":
        options["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    conv = base.config.model_type == "gpt2"
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=conv, **options)).train()


def rows():
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 160, (length,), generator=generator) for length in LENGTHS]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: own.grad.clone() for name, own in model.named_parameters() if own.requires_grad}
    return loss.item(), found


def plainly(model):
    """Return loss and gradients of padded rows with an attention mask and all logits."""
    ids = torch.nn.utils.rnn.pad_sequence(rows(), batch_first=True)
    mask = (ids > 0).long()
    labels = ids.masked_fill(ids == 0, -100)
    return gradients(model, model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss)


def packed(model):
    """Return loss and gradients of one row without padding."""
    ids = torch.cat(rows())
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    labels = ids.masked_fill(positions == 0, -100)[None]
    row = pack_row(LENGTHS)
    logits = model.get_base_model()(input_ids=ids[None], position_ids=positions[None], **document_arguments(row)).logits
    return gradients(model, torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:]))


def same(found, expected, tolerance=1e-5):
    assert abs(found[0] - expected[0]) <= tolerance
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert found[1][name].dtype == gradient.dtype
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm(), name


def base_of(build, family):
    configs = {"phi3": PHI, "moe": MOE}
    if family not in configs:
        return build(family)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(configs[family]))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("family", "layers", "groups"),
    [("llama", 14, 8), ("llama-tied", 14, 8), ("qwen2", 14, 8), ("gemma2", 14, 8), ("phi3", 8, 8), ("gpt2", 8, 8),
     ("moe", 8, 4)],
)  # fmt: skip
def test_fused_packed_row_equals_padded_transformers(build, family, layers, groups, checkpointed):
    model = adapted(base_of(build, family))
    expected = plainly(model)
    use_packed_attention(model)
    fused = fuse_lora(model)
    assert (fused.layers, fused.groups) == (layers, groups)
    if checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    same(packed(model), expected)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"rank_pattern": {"k_proj": 7, "up_proj": 2}}])
def test_fuse_lora_with_different_scales_and_ranks(build, options):
    model = adapted(build("llama"), **options)
    expected = plainly(model)
    assert fuse_lora(model).groups == 8
    same(plainly(model), expected)


def test_double_precision_differs_only_by_rounding(build):
    model = adapted(build("qwen2")).double()
    expected = plainly(model)
    fuse_lora(model)
    same(plainly(model), expected, 1e-13)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_rounds_no_more_than_peft(build, autocast):
    """Both are compared with float32: frozen weights in bfloat16, adapters in float32."""
    exact = adapted(build("llama").bfloat16().float())
    half = adapted(build("llama").bfloat16())
    half.load_state_dict(exact.state_dict())
    expected = plainly(exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        theirs = plainly(half)
        fuse_lora(half)
        ours = plainly(half)

    def distance(found):
        return sum(((found[1][name] - own).norm() / own.norm()).item() for name, own in expected[1].items())

    assert {own.dtype for own in ours[1].values()} == {torch.float32}
    assert abs(ours[0] - expected[0]) <= 2 * abs(theirs[0] - expected[0]) + 0.02
    assert distance(ours) <= 1.25 * distance(theirs)


def test_the_input_is_kept_once_and_frozen_weights_get_no_gradient(build):
    model = adapted(build("llama"))
    fuse_lora(model)
    attention = model.get_base_model().model.layers[0].self_attn
    x = torch.randn(1, 5, 128, requires_grad=True)
    outputs = [layer(x) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    assert len({id(output.grad_fn) for output in outputs}) == 1
    saved = [one for one in outputs[0].grad_fn.saved_tensors if one.shape == x.shape]
    assert len(saved) == 1
    sum(output.sum() for output in outputs).backward()
    assert all(own.grad is None for name, own in model.named_parameters() if "lora" not in name)


def normed_inputs(model, *, change=False):
    """Run q, k and v of a layer on a norm's output; return all gradients, and whether that output is kept."""
    layer = model.get_base_model().model.layers[0]
    x = torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(3)).requires_grad_()
    normed = layer.input_layernorm(x)
    if change:
        with torch.no_grad():
            normed.mul_(2)
    attention = layer.self_attn
    outputs = [one(normed) for one in (attention.q_proj, attention.k_proj, attention.v_proj)]
    kept = any(torch.equal(one, normed) for one in outputs[0].grad_fn.saved_tensors)
    model.zero_grad()
    sum(output.square().sum() for output in outputs).backward()
    grads = {name: own.grad.clone() for name, own in attention.named_parameters() if own.grad is not None}
    return {"x": x.grad, **grads}, kept


@pytest.mark.parametrize("change", [False, True])
def test_the_output_of_a_norm_is_computed_again(build, monkeypatch, change):
    """It is equal to the bit; an output that was changed in place is kept instead."""
    model = adapted(build("llama"))
    assert replace_rms_norms(model) > 0
    fuse_lora(model)
    found, kept = normed_inputs(model, change=change)
    assert kept is change
    monkeypatch.setattr(NormInput, "of", lambda _: None)
    expected, kept = normed_inputs(model, change=change)
    assert kept
    assert found.keys() == expected.keys()
    assert len(found) == 7
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_lora_group_with_unexpected_calls(build):
    model = adapted(build("llama"))
    attention = model.get_base_model().model.layers[0].self_attn
    x, other = torch.randn(2, 1, 5, 128).unbind()
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    expected = [layer(other) for layer in layers]
    fuse_lora(model)
    queries = layers[0](x)
    torch.testing.assert_close(layers[1](other), expected[1])
    torch.testing.assert_close(layers[2](other), expected[2])
    torch.testing.assert_close(layers[1](x), layers[1](x.clone()))
    torch.testing.assert_close(layers[1](x), layers[1](x.clone()))
    queries.sum().backward()
    layers[0](x)
    x.copy_(other)  # changed in place in between
    torch.testing.assert_close(layers[1](x), expected[1])


def test_lora_group_member_without_gradient(build):
    """Matrices whose outputs are not used have zero gradients."""
    model = adapted(build("llama"))
    fuse_lora(model)
    attention = model.get_base_model().model.layers[0].self_attn
    attention.q_proj(torch.randn(1, 5, 128)).sum().backward()
    assert attention.q_proj.lora_B["default"].weight.grad.abs().sum() > 0
    assert attention.k_proj.lora_B["default"].weight.grad is None
    assert attention.k_proj.lora_A["default"].weight.grad.abs().sum() == 0


def test_fused_layers_disable_merge_and_save_as_in_peft(build, tmp_path):
    model = adapted(build("llama"))
    ids = rows()[1][None]
    expected = model(input_ids=ids).logits
    with model.disable_adapter():
        base = model(input_ids=ids).logits
    state, parameters = get_peft_model_state_dict(model), [id(own) for own in model.parameters()]
    fuse_lora(model)
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, base, rtol=0, atol=0)
    torch.testing.assert_close(model(input_ids=ids).logits, expected, **CLOSE)
    answer = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert get_peft_model_state_dict(model).keys() == state.keys()
    assert [id(own) for own in model.parameters()] == parameters
    torch.testing.assert_close(
        copy.deepcopy(model)(input_ids=ids).logits, expected, rtol=1.3e-6 * ROUNDING, atol=1e-5 * ROUNDING
    )
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build("llama"), str(tmp_path))
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, **CLOSE)
    unfuse_lora(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=4, do_sample=False), answer)
    torch.testing.assert_close(model.merge_and_unload()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lora_dropout": 0.1}, "they have dropout"),
        ({"use_dora": True}, "their adapter is a variant of LoRA (DoraLinearVariant)"),
        ({"lora_bias": True}, "their adapter has a bias"),
    ],
)
def test_fusion_blockers_keep_pefts_forward(build, options, reason):
    model = adapted(build("qwen2"), target_modules=["q_proj", "k_proj"], **options)
    fused = fuse_lora(model)
    assert str(fused) == f"no LoRA layer; 4 keep PEFT's forward: {reason}"
    plainly(model)


def test_two_active_adapters_and_a_trained_base(build):
    model = adapted(build("llama"), target_modules=["q_proj"])
    model.add_adapter("other", LoraConfig(target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "other"])
    assert str(fuse_lora(model)) == "no LoRA layer; 2 keep PEFT's forward: several adapters, or none, are active"
    model.base_model.set_adapter("default")
    model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    assert str(fuse_lora(model)) == "1 LoRA layers in 1 groups; 1 keep PEFT's forward: their base is trained too"


def test_a_model_without_lora(build):
    assert str(fuse_lora(build("llama"))) == "no LoRA layer"


def test_comparison_detects_a_wrong_scale(build, monkeypatch):
    """A scale that is wrong by a thousandth in the forward pass is detected."""
    model = adapted(build("llama"))
    expected = plainly(model)
    fuse_lora(model)
    right = fused_products.scaled_lora_b
    monkeypatch.setattr(fused_products, "scaled_lora_b", lambda up, scale, dtype: right(up, scale * 1.001, dtype))
    with pytest.raises(AssertionError):
        same(plainly(model), expected)
