"""Packed attention gives the results of each document alone."""

import pytest
import torch

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention import kernels
from sft_cli.model.attention.attention_function import (
    AttentionLog,
    PackingUnsupported,
    no_attention_mask,
    packed_attention,
)
from sft_cli.model.attention.packing import (
    generation_mode,
    packed_row_arguments,
    register_packed_attention,
    use_packed_attention,
)
from sft_cli.model.attention.probe import packing_verdict, probe_packing
from sft_cli.model.quant import evaluation_mode

CPU = torch.device("cpu")
FAMILIES = ["llama", "qwen2", "mistral-window", "gemma2", "cohere", "gpt2"]


def packed_logits(model, ids):
    use_packed_attention(model)
    with torch.no_grad():
        return model(input_ids=torch.cat(ids)[None], **packed_row_arguments([len(own) for own in ids], CPU)).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_equal_solo_logits(build, make_batch, family):
    """Lengths below, at and above the sliding window of three; two of them equal."""
    model, ids = build(family), make_batch([6, 3, 9, 6]).documents
    with torch.no_grad():
        solo = torch.cat([model(input_ids=own[None], use_cache=False).logits[0] for own in ids])

    torch.testing.assert_close(packed_logits(model, ids), solo, rtol=1e-5, atol=1e-5 * solo.abs().max().item())


@pytest.mark.parametrize("family", ["llama", "mistral-window", "gemma2"])
def test_documents_do_not_attend_to_each_other(build, make_batch, family):
    model = build(family)
    ids = make_batch([6, 5, 9]).documents
    other = [(ids[0] + 1) % 160, *ids[1:]]

    before, after = packed_logits(model, ids), packed_logits(model, other)

    assert not torch.equal(before[:6], after[:6])
    assert torch.equal(before[6:], after[6:])


def test_plain_packing_would_leak(build, make_batch):
    """Guards the tests above: without bounds, documents in one row change each other's logits."""
    model, ids = build("llama"), make_batch([6, 5]).documents
    with torch.no_grad():
        row = model(input_ids=torch.cat(ids)[None], use_cache=False).logits[0, 6:]
        solo = model(input_ids=ids[1][None], use_cache=False).logits[0]

    assert (row - solo).abs().max() > 0.1 * solo.abs().max()


@pytest.mark.parametrize(
    ("window", "seen"),
    [
        pytest.param(None, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], id="no-window"),
        pytest.param(3, [[0], [0, 1], [0, 1, 2], [1, 2, 3]], id="itself-and-two-before"),
        pytest.param(1, [[0], [1], [2], [3]], id="only-itself"),
        pytest.param(9, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], id="longer-than-the-document"),
    ],
)
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_packed_attention_visibility(window, seen, softcap):
    """Values are one-hot and scores equal, so the output of a token is one over the number of tokens it sees."""
    query = torch.zeros(1, 1, 4, 4)
    out = kernels.causal_attention(query, query, torch.eye(4)[None, None], kernels.AttentionSpec(1.0, window, softcap))

    assert [row.nonzero().flatten().tolist() for row in out[0, 0]] == seen


def test_packed_window_equals_transformers_mask(build):
    """With a window of three the fourth token does not see the first, as in transformers' own masks."""
    from transformers.masking_utils import sliding_window_causal_mask_function

    mask = sliding_window_causal_mask_function(3)
    place = torch.arange(4)
    seen = [[key for key in range(4) if mask(0, 0, place[query], place[key])] for query in range(4)]
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3]]


def call(**changes):
    """Call the attention function on one document of two tokens."""
    state = torch.zeros(1, 2, 2, 4)
    given = {"sft_documents": pack_row([2]), **changes}
    return packed_attention(torch.nn.Identity(), state, state, state, given.pop("attention_mask", None), **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"position_bias": torch.ones(1)}, "its attention asks for position_bias", id="bias"),
        pytest.param(
            {"attention_mask": torch.ones(2, 2)},
            "its attention asks for a mask, no document bounds or attention to later tokens",
            id="mask",
        ),
        pytest.param(
            {"sft_documents": None},
            "its attention asks for a mask, no document bounds or attention to later tokens",
            id="no-bounds",
        ),
        pytest.param(
            {"is_causal": False},
            "its attention asks for a mask, no document bounds or attention to later tokens",
            id="both-ways",
        ),
    ],
)
def test_packed_attention_refuses_unsupported_arguments(changes, message):
    with pytest.raises(PackingUnsupported) as caught:
        call(**changes)
    assert str(caught.value) == message


def test_packed_attention_ignores_harmless_arguments():
    assert call(position_ids=torch.zeros(1, 2), use_cache=False, s_aux=None)[0].shape == (1, 2, 2, 4)


def test_custom_mask_is_refused():
    """transformers sets ``use_vmap`` if a family adds its own function to the causal mask."""
    with pytest.raises(PackingUnsupported) as caught:
        no_attention_mask(attention_mask=None, use_vmap=True)
    assert str(caught.value) == "the model's attention mask is neither causal nor a sliding window"


def test_chunked_attention_is_refused():
    """Llama 4's chunks are in the mask but not passed to the attention function; short documents would hide this."""
    from transformers import AutoModelForCausalLM, Llama4TextConfig

    torch.manual_seed(0)
    config = Llama4TextConfig(
        vocab_size=160, hidden_size=64, intermediate_size=64, intermediate_size_mlp=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=2, pad_token_id=0,
    )  # fmt: skip
    result = probe_packing(AutoModelForCausalLM.from_config(config))

    assert not result.packed_ok
    assert result.reason == "its attention does not get the sliding window 8192 of its mask"


def test_padding_mask_is_refused_by_the_check(build, make_batch):
    model, ids = build("llama"), make_batch([4, 4]).documents
    use_packed_attention(model, check_masks=True)
    with pytest.raises(PackingUnsupported, match="an attention mask was given in addition to the document bounds"):
        model(
            input_ids=torch.cat(ids)[None], attention_mask=torch.ones(1, 8).long(), **packed_row_arguments([4, 4], CPU)
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_probe_packing_accepts_models_without_changing_them(build, family):
    model = build(family)
    implementation, state = model.config._attn_implementation, torch.get_rng_state()

    result = probe_packing(model)

    assert result.packed_ok, result.reason
    assert result.difference < 1e-5
    assert model.config._attn_implementation == implementation
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_probe_packing_detects_a_leak(build, monkeypatch):
    """The patched attention runs over the whole row, as plain causal attention does."""

    def leaking(module, query, key, value, attention_mask, **_):
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2), None

    monkeypatch.setattr("sft_cli.model.attention.packing.packed_attention", leaking)
    model = build("llama")
    result = probe_packing(model)
    monkeypatch.undo()
    register_packed_attention()

    assert not result.packed_ok
    assert result.difference > 0.1
    assert result.reason == f"packed logits differ from unpacked logits by {result.difference:.2g}"


@pytest.mark.parametrize(
    ("difference", "leak", "masked", "reason"),
    [
        pytest.param(1e-5, 0.0, set(), "", id="sound"),
        pytest.param(0.3, 0.0, set(), "packed logits differ from unpacked logits by 0.3", id="differs"),
        pytest.param(float("nan"), 0.0, set(), "packed logits differ from unpacked logits by nan", id="not-a-number"),
        pytest.param(1e-5, 5e-5, set(), "a document changes the logits of those after it by 5e-05", id="leaks"),
        pytest.param(0.0, 0.0, {8192}, "its attention does not get the sliding window 8192 of its mask", id="chunks"),
    ],
)
def test_packing_verdict(difference, leak, masked, reason):
    result = packing_verdict(difference, leak, AttentionLog(masked=masked), 1e-4)
    assert (result.packed_ok, result.reason) == (not reason, reason)


@pytest.mark.slow
def test_probe_packing_detects_a_weak_leak_in_half_precision():
    """The leak of a state-space layer is smaller than the difference of two kernels in bfloat16."""
    from transformers import AutoModelForCausalLM, FalconH1Config

    torch.manual_seed(0)
    config = FalconH1Config(
        vocab_size=160, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, pad_token_id=0,
    )  # fmt: skip
    result = probe_packing(AutoModelForCausalLM.from_config(config).bfloat16())

    assert not result.packed_ok
    assert result.reason == f"a document changes the logits of those after it by {result.difference:.2g}"


def test_generation_inside_packed_training(build, make_batch):
    """``generate`` uses the cache and the model's own attention; training continues with packed attention."""
    model, ids = build("llama"), make_batch([6, 5]).documents
    with evaluation_mode(model):
        expected = model.generate(ids[0][None], max_new_tokens=5, do_sample=False)
    before = packed_logits(model, ids)

    with generation_mode(model) as lm:
        written = lm.generate(ids[0][None], max_new_tokens=5, do_sample=False)

    assert torch.equal(written, expected)
    assert torch.equal(packed_logits(model, ids), before)
    assert model.training
