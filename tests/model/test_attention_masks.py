"""Masks that are built once and reused, and attention that is split by length."""

import gc
import math

import pytest
import torch

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention import flex, kernels
from sft_cli.model.attention.kernels import AttentionSpec, attention_by_length, causal_mask
from tests.model.attention_helpers import TREE, attention_inputs

CPU = torch.device("cpu")


def test_block_mask_is_cached_with_its_row():
    gc.collect()
    row, other = pack_row(*TREE), pack_row(*TREE)
    before = len(flex._block_masks)
    mask = flex.block_mask(row, None, CPU)

    assert row != other
    assert flex.block_mask(row, None, CPU) is mask
    assert flex.block_mask(row, 2, CPU) is not mask
    assert flex.block_mask(other, None, CPU) is not mask
    assert len(flex._block_masks) == before + 2
    del row, other
    gc.collect()
    assert len(flex._block_masks) == before


@pytest.mark.parametrize(
    ("queries", "keys", "window", "seen"),
    [
        pytest.param(3, 3, None, ["100", "110", "111"], id="a-document"),
        pytest.param(2, 4, None, ["1110", "1111"], id="after-a-prefix"),
        pytest.param(2, 4, 2, ["0110", "0011"], id="a-window-across-the-boundary"),
        pytest.param(1, 3, 1, ["001"], id="only-itself"),
    ],
)
@pytest.mark.parametrize("kept", [2048, 2], ids=["slice-of-the-cached-mask", "new-mask"])
def test_causal_mask_by_hand(queries, keys, window, seen, kept, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_CACHED_MASK", kept)
    mask = causal_mask(queries, keys, window, torch.float32, CPU)

    assert ["".join("1" if number == 0 else "0" for number in row) for row in mask.tolist()] == seen
    assert set(mask.flatten().tolist()) <= {0.0, -math.inf}


def test_causal_mask_cache_is_small():
    """One square mask serves all lengths up to its size; number and size of cached masks are limited."""
    masks = [causal_mask(queries, keys, None, torch.float32, CPU) for queries, keys in [(3, 40), (40, 40), (1, 64)]]
    before = kernels._square_mask.cache_info()
    causal_mask(5, kernels.MAX_CACHED_MASK + 1, None, torch.float32, CPU)

    assert len({mask.untyped_storage().data_ptr() for mask in masks}) == 1
    assert kernels._square_mask.cache_info() == before
    assert before.maxsize == 16


def test_a_mask_created_in_inference_mode_works_in_training():
    kernels._square_mask.cache_clear()
    row = pack_row([4])
    *parts, sink = attention_inputs(row)
    rule = AttentionSpec(sinks=sink)
    with torch.inference_mode():
        attention_by_length(*parts, row, rule)
    learned = [part.requires_grad_() for part in parts]
    attention_by_length(*learned, row, rule).sum().backward()

    assert all(part.grad is not None for part in learned)


def graph(tensor):
    """Return the names of the operations in the graph of a tensor."""
    names, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in names:
            names.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return {node.name() for node in names}


@pytest.mark.parametrize("products", [True, False])
def test_attention_by_length_splits_without_zero_gradients(products, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_MATMUL_KEYS", {torch.float32: 99 if products else 0})
    row = pack_row(*TREE)
    parts = [part.requires_grad_() for part in attention_inputs(row)[:3]]
    names = graph(attention_by_length(*parts, row, AttentionSpec()))

    assert not {name for name in names if "Slice" in name or "Index" in name or "Narrow" in name}
    assert any("Split" in name for name in names)


def test_attention_by_length_calls_once_per_length(monkeypatch):
    calls = []
    attend = kernels.causal_attention

    def counting(query, *rest):
        calls.append(tuple(query.shape))
        return attend(query, *rest)

    monkeypatch.setattr(kernels, "causal_attention", counting)
    row = pack_row([4, 3, 4, 4, 3])
    attention_by_length(*attention_inputs(row)[:3], row, AttentionSpec())

    assert calls == [(4, 3, 4, 8), (4, 2, 3, 8)]
