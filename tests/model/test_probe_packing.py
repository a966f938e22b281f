"""The probe of packing and of shared prefixes."""

import torch

from sft_cli.batching.packed_row import pack_row
from sft_cli.model.attention import packing, probe
from sft_cli.model.attention.attention_function import packed_attention
from sft_cli.model.attention.packing import register_packed_attention
from sft_cli.model.attention.probe import probe_packing
from tests.model.helpers import tiny


def probed_with(monkeypatch, changed):
    """Return the probe's result for a model whose attention gets other arguments for the row."""

    def spoiled(*states, sft_documents, **rest):
        return packed_attention(*states, sft_documents=changed(sft_documents), **rest)

    monkeypatch.setattr(packing, "packed_attention", spoiled)
    result = probe_packing(tiny("llama"))
    monkeypatch.undo()
    register_packed_attention()
    return result


def test_probe_packing_without_sharing(monkeypatch):
    """Each ending attends only to itself, as in a kernel that ignores the positions of keys."""
    result = probed_with(monkeypatch, lambda row: pack_row(row.lengths))

    assert (result.packed_ok, result.shared_ok) == (True, False)
    assert result.difference < 1e-5
    assert result.reason.startswith("with a shared prefix, packed logits differ from unpacked logits by ")


def test_probe_packing_detects_endings_that_see_each_other(monkeypatch):
    result = probed_with(monkeypatch, lambda row: pack_row(row.lengths, [*row.parents[:-1], len(row.lengths) - 2]))

    assert (result.packed_ok, result.shared_ok) == (False, False)


def test_probe_packing_detects_a_weak_leak_between_endings(monkeypatch):
    """The leak is below the half-precision tolerance of the comparison with separate rows."""

    def spoiled(*states, sft_documents, **rest):
        out, _ = packed_attention(*states, sft_documents=sft_documents, **rest)
        own = list(out.split(sft_documents.lengths, dim=1))
        if sft_documents.has_shared_prefixes:
            own[-1] = own[-1] + 0.02 * own[-2].mean(dim=1, keepdim=True)
        return torch.cat(own, dim=1), None

    monkeypatch.setattr(packing, "packed_attention", spoiled)
    monkeypatch.setitem(probe.TOLERANCE, torch.float32, 5e-2)
    result = probe_packing(tiny("llama"))
    monkeypatch.undo()
    register_packed_attention()

    assert (result.packed_ok, result.shared_ok) == (True, False)
    assert result.reason.startswith("with a shared prefix, a document changes the logits of those after it by ")


def test_stateful_family_shares_no_prefix(monkeypatch):
    """On CUDA some kernels separate packed documents, but the state of a shared prefix would be lost."""
    model = tiny("llama")
    monkeypatch.setattr(type(model), "_is_stateful", True)
    result = probe_packing(model)

    assert (result.packed_ok, result.shared_ok) == (True, False)
    assert result.reason == "with a shared prefix, layers that carry a state from token to token would start again"


def test_probe_packing_takes_seven_forwards(monkeypatch):
    """Two for separate documents, two for rows with both, and three to detect random numbers in training."""
    model = tiny("llama")
    lengths = []
    forward = type(model).forward

    def counting(self, input_ids, **rest):
        lengths.append(input_ids.shape[1])
        return forward(self, input_ids, **rest)

    monkeypatch.setattr(type(model), "forward", counting)
    assert probe_packing(model).shared_ok
    assert lengths == [7, 11, 32, 32, 7, 7, 7]
