"""A prefix that several documents share is computed once, with the same results."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.speed import SpeedConfig
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.attention import attention_function, flex, kernels, varlen
from sft_cli.model.attention.attention_function import packed_attention
from sft_cli.model.attention.kernels import AttentionSpec, attention_by_length
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.attention.varlen import packed_varlen_attention, sum_rows
from sft_cli.model.device import ComputeSetup
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.memory.measure import measure_model
from tests.lanes import examples
from tests.model.attention_helpers import TREE, attention_inputs
from tests.model.helpers import assert_same_gradients, gradients, tiny, tree

CPU = torch.device("cpu")


def test_documents_by_hand():
    row = pack_row(*TREE)

    assert row.has_shared_prefixes
    assert row.key_lengths == (3, 5, 6, 6, 4, 3)
    assert [row.ancestors(segment) for segment in range(6)] == [(), (0,), (0, 1), (0, 1), (0,), ()]
    assert row.cu_queries.tolist() == [0, 3, 5, 6, 7, 8, 11]
    assert row.cu_keys.tolist() == [0, 3, 8, 14, 20, 24, 27]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 5, 5, 3, 0, 1, 2]]
    assert row.key_positions.tolist() == [
        *(0, 1, 2),
        *(0, 1, 2, 3, 4),
        *(0, 1, 2, 3, 4, 5),
        *(0, 1, 2, 3, 4, 6),
        *(0, 1, 2, 7),
        *(8, 9, 10),
    ]  # fmt: skip
    assert row.size_groups == (((0,), (5,)), ((0, 1),), ((0, 1, 2), (0, 1, 3)), ((0, 4),))


def test_documents_without_sharing_by_hand():
    row = pack_row([2, 3, 2])

    assert not row.has_shared_prefixes
    assert row.key_positions is None
    assert row.key_lengths == row.lengths
    assert row.cu_keys.tolist() == row.cu_queries.tolist() == [0, 2, 5, 7]
    assert row.positions.tolist() == [[0, 1, 0, 1, 2, 0, 1]]
    assert row.size_groups == (((0,), (2,)), ((1,),))


def dense(query, key, value, row, rule):
    """Return dense attention over the whole row in float64, with a mask from the definition of segments."""
    position = row.positions[0].tolist()
    segment = [own for own, length in enumerate(row.lengths) for _ in range(length)]
    tokens = range(len(position))
    window = math.inf if rule.window is None else rule.window
    mask = torch.tensor(
        [
            [
                segment[k] in (*row.ancestors(segment[q]), segment[q]) and 0 <= position[q] - position[k] < window
                for k in tokens
            ]
            for q in tokens
        ]
    )
    query, key, value = query.double(), key.double(), value.double()
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if rule.scaling is None else rule.scaling)
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    weights = scores.masked_fill(~mask, -math.inf).exp()
    total = weights.sum(-1, keepdim=True)
    if rule.sinks is not None:
        total = total + rule.sinks.double().exp().view(1, -1, 1, 1)
    return (weights / total @ value).transpose(1, 2)


@st.composite
def rows(draw):
    """Draw up to eight segments of up to nine tokens, each continuing any earlier one or none."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    return pack_row(lengths, [draw(st.integers(-1, place - 1)) for place in range(len(lengths))])


@st.composite
def rules(draw):
    """Draw a window, cap and scale; sinks depend on heads and are drawn later."""
    return AttentionSpec(
        scaling=draw(st.sampled_from([None, 0.5])),
        window=draw(st.one_of(st.none(), st.integers(1, 12))),
        softcap=draw(st.sampled_from([None, 2.0])),
    )


@settings(max_examples=examples(80), deadline=None)
@given(row=rows(), rule=rules(), group=st.sampled_from([1, 3]), sinks=st.booleans(), products=st.booleans())
def test_shared_prefix_attention_equals_dense_attention(row, rule, group, sinks, products):
    """Output and every gradient, by matrix products and by torch's own kernel."""
    *parts, sink = attention_inputs(row, group)
    ours = [part.clone().requires_grad_() for part in (*parts, sink)]
    theirs = [part.clone().requires_grad_() for part in (*parts, sink)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "MAX_MATMUL_KEYS", {torch.float32: 99 if products else 0})
        out = attention_by_length(*ours[:3], row, replace(rule, sinks=ours[3] if sinks else None))
    expected = dense(*theirs[:3], row, replace(rule, sinks=theirs[3] if sinks else None))
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    (expected * weight).sum().backward()

    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    for own, other in zip(ours[: 4 if sinks else 3], theirs, strict=False):
        scale = max(other.grad.abs().max().item(), 1.0)
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("window", [5, 12, 13])
def test_a_window_longer_than_any_segment_still_applies(window):
    """Three segments of four that continue each other: the last token has twelve keys."""
    row = pack_row([4, 4, 4], [-1, 0, 1])
    query, key, value, _ = attention_inputs(row)
    out, _ = packed_attention(torch.nn.Identity(), query, key, value, None, sft_documents=row, sliding_window=window)

    torch.testing.assert_close(
        out.double(), dense(query, key, value, row, AttentionSpec(window=window)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_document_mask_mod_equals_the_mask(window, softcap, sinks, group):
    """The mask, cap and sinks of the function that CUDA compiles, run without compilation."""
    row = pack_row(*TREE)
    *parts, sink = attention_inputs(row, group, width=16)
    rule = AttentionSpec(0.3, window, softcap, sinks=sink if sinks else None)
    with torch.no_grad():
        out = flex.packed_flex_attention(*parts, row, rule)

    torch.testing.assert_close(out.double(), dense(*parts, row, rule), rtol=1e-4, atol=1e-5)


@pytest.fixture
def reference_kernel(monkeypatch):
    """Replace the CUDA kernel on a CPU; record the tensors that autograd saves."""

    def forward(query, key, value, row, scaling, left):
        spec = AttentionSpec(scaling, None if left < 0 else left + 1)
        queries, keys = (pairwise(bounds.tolist()) for bounds in (row.cu_queries, row.cu_keys))
        parts = []
        for (first, end), (first_key, end_key) in zip(queries, keys, strict=True):
            states = (query[first:end], key[first_key:end_key], value[first_key:end_key])
            states = [part.transpose(0, 1).unsqueeze(1) for part in states]
            parts.append(kernels.causal_attention(*states, spec)[:, 0].transpose(0, 1))
        return torch.cat(parts), torch.zeros(query.shape[1], len(query))

    def backward(gradient, states, row, scaling, left):
        given = [state.detach().requires_grad_() for state in states[:3]]
        with torch.enable_grad():
            return torch.autograd.grad(forward(*given, row, scaling, left)[0], given, gradient)

    monkeypatch.setattr(varlen, "varlen_forward", forward)
    monkeypatch.setattr(varlen, "varlen_backward", backward)


@pytest.mark.parametrize("window", [None, 1, 4])
def test_shared_prefix_attention_gradients(window, reference_kernel):
    row, spec = pack_row(*TREE), AttentionSpec(0.3, window)
    ours, theirs = ([part.clone().requires_grad_() for part in attention_inputs(row)[:3]] for _ in range(2))
    out, expected = packed_varlen_attention(*ours, row, spec), attention_by_length(*theirs, row, spec)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    (expected * weight).sum().backward()

    torch.testing.assert_close(out, expected)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_gathered_keys_are_not_saved(reference_kernel):
    """A prefix of 50 tokens that 20 examples share is copied 20 times; the row has 70 tokens."""
    row, saved = pack_row([50, *[1] * 20], [-1, *[0] * 20]), []
    parts = [part.requires_grad_() for part in attention_inputs(row)[:3]]
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one):
        packed_varlen_attention(*parts, row, AttentionSpec())

    floating = [one.shape[0] for one in saved if one.is_floating_point()]
    assert len(row.key_positions) == 50 + 20 * 51
    assert max(floating) == 70


def test_the_gradient_of_a_prefix_is_summed_in_float32():
    """A thousand documents share it; a sum of ones in bfloat16 would stop at 256."""
    total = sum_rows(torch.ones(1000, 2, 4, dtype=torch.bfloat16), torch.arange(1000) % 2, 2)

    assert total.tolist() == [[[500.0] * 4] * 2] * 2


def test_packed_attention_computes_in_the_autocast_dtype(monkeypatch):
    """Rotary embeddings leave queries and keys in float32 while values are bfloat16, which no CUDA kernel supports."""
    given = []

    def watching(*parts):
        given.extend(part.dtype for part in parts[:3])
        return attention_by_length(*parts)

    monkeypatch.setattr(attention_function, "attention_by_length", watching)
    row = pack_row([3, 4])
    query, key, value, _ = attention_inputs(row)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = packed_attention(torch.nn.Identity(), query, key, value.bfloat16(), None, sft_documents=row)

    assert {out.dtype, *given} == {torch.bfloat16}
    torch.testing.assert_close(out.double(), dense(query, key, value, row, AttentionSpec()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_dropout_drops_weights_and_keeps_their_mean(products, shared, monkeypatch):
    """With values of one, the output of a token is the sum of its weights: half of them, doubled."""
    monkeypatch.setattr(kernels, "MAX_MATMUL_KEYS", {torch.float32: 999 if products else 0})
    row = pack_row([64, 64], [-1, 0] if shared else None)
    query = torch.zeros(1, 8, 128, 4)
    torch.manual_seed(0)
    out, _ = packed_attention(
        torch.nn.Identity(), query, query, torch.ones(1, 8, 128, 4), None, sft_documents=row, dropout=0.5
    )

    assert out[..., 0].unique().numel() > 50
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_recomputation_of_shared_rows_keeps_gradients():
    """Checkpointing passes the same documents to the second forward of a layer."""
    segments, found = tree((6, 5, 4, 7), (-1, 0, 1, 1)), []
    for again in (False, True):
        model = tiny("gemma2-window-softcap")
        use_packed_attention(model)
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        LossModel(model, packed=True, chunk=8)(**segments.arguments())["loss"].backward()
        found.append(gradients(model))

    assert_same_gradients(found[1], found[0], tolerance=1e-6)


@pytest.mark.parametrize("number", [1, 8])
def test_memory_estimate_counts_gathered_keys(number):
    """Copies of keys and values and their gradients exist during the backward pass of one layer; none is saved."""
    config = LlamaConfig(vocab_size=64, hidden_size=256, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=8, num_key_value_heads=8, head_dim=32)  # fmt: skip
    cuda = ComputeSetup(torch.device("cuda"), torch.bfloat16)
    adapter, speed = AdapterConfig(rank=4, train_stop_token=TrainStopToken.never), SpeedConfig()
    plain, shared = (
        measure_model(
            config, ModelConfig(), adapter, speed, LossConfig(), setup=cuda, document=512, keys_per_token=keys
        )
        for keys in (1.0, number)
    )

    assert shared.two_documents.layers == plain.two_documents.layers
    added = shared.two_documents.transient - plain.two_documents.transient
    gathered = 4 * number * 1024 * 8 * 32 * 2  # of 1024 tokens, in bfloat16
    assert added == 0 if number == 1 else 0.6 * gathered < added < 1.1 * gathered
