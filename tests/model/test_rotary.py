"""Rotary embeddings with frequencies by length: a document's loss does not depend on the others of its row."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.speed import Choice
from sft_cli.model.attention import probe
from sft_cli.model.attention.packing import document_arguments, packed_row_arguments, use_packed_attention
from sft_cli.model.attention.probe import probe_packing
from sft_cli.model.attention.rotary import DocumentRotary, MixedLengthsError, install_document_rotary
from sft_cli.model.head.loss_model import build_loss_model
from sft_cli.model.quant import evaluation_mode
from tests.lanes import examples
from tests.model.helpers import SIZES, VOCABULARY

CPU, ORIGINAL = torch.device("cpu"), 32
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], "original_max_position_embeddings": ORIGINAL,
        "rope_theta": 1e4}  # fmt: skip
CONFIGS = {
    "longrope": Phi3Config(**SIZES, max_position_embeddings=128, original_max_position_embeddings=ORIGINAL,
                           sliding_window=None, rope_parameters=LONG),
    "dynamic": LlamaConfig(**SIZES, max_position_embeddings=ORIGINAL,
                           rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
}  # fmt: skip


def build(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).train()


MODELS = {kind: build(kind) for kind in CONFIGS}


def solo_logits(kind, ids):
    """Return the logits of one document from a new model of transformers."""
    with torch.no_grad():
        return build(kind)(input_ids=ids[None], use_cache=False).logits[0]


def packed_logits(model, documents):
    use_packed_attention(model)
    arguments = packed_row_arguments([len(ids) for ids in documents], CPU)
    with evaluation_mode(model):
        return model(input_ids=torch.cat(documents)[None], **arguments).logits[0].split([len(ids) for ids in documents])


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=examples(10), deadline=None)
@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=5), data=st.data())
def test_logits_do_not_depend_on_other_documents_of_the_row(kind, lengths, data):
    """Rows below, above, at and on both sides of the original length, one after another in the same model."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    documents = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
    order = data.draw(st.permutations(range(len(documents))))
    cut = data.draw(st.integers(0, len(documents)))
    rows = [row for row in (order[:cut], order[cut:]) if row]
    found = {}
    for row in rows:
        found.update(zip(row, packed_logits(MODELS[kind], [documents[place] for place in row]), strict=True))

    for place, ids in enumerate(documents):
        expected = solo_logits(kind, ids)
        torch.testing.assert_close(found[place], expected, rtol=1e-5, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_mixes_lengths(kind):
    """Guards the test above: the frequencies of the longer document change the logits of the shorter one."""
    documents = [torch.arange(9), torch.arange(50)]
    model = build(kind)
    use_packed_attention(model)
    for module in model.modules():
        if isinstance(vars(module).get("forward"), DocumentRotary):
            del module.forward
    with torch.no_grad():
        row = packed_row_arguments([9, 50], CPU)
        mixed = model(input_ids=torch.cat(documents)[None], **row).logits[0, :9]

    assert (mixed - solo_logits(kind, documents[0])).abs().max() > 1e-3 * mixed.abs().max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_unpacked_rows_do_not_depend_on_earlier_rows(kind):
    """Dynamic scaling of transformers keeps the frequencies of the longest row so far."""
    model = build(kind)
    loss_model, _ = build_loss_model(model, 8, packing=False)
    found = []
    for length in (40, 60, 40):
        ids = torch.arange(length)
        targets, places = ids[1:], torch.arange(length - 1)
        found.append(loss_model.token_losses(ids[None], ids[None], pack_row([length]), targets, places))

    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", CONFIGS)
def test_probe_packing_tests_lengths_beyond_the_original(kind, monkeypatch):
    """The documents of the packing probe are short."""
    model = build(kind)
    assert probe_packing(model).packed_ok
    monkeypatch.setattr(DocumentRotary, "token_groups", lambda self, row: [list(range(sum(row.lengths)))])
    result = probe.probe_packing(model)

    assert (result.packed_ok, result.reason) == (
        False,
        "its rotary embeddings depend on the other documents of the row",
    )


@pytest.mark.parametrize(("longest", "shares"), [(ORIGINAL, True), (ORIGINAL + 1, False), (None, False)])
def test_prefixes_are_shared_up_to_the_original_length(longest, shares):
    """Beyond it the prefixes of short and long documents have different embeddings."""
    loss_model, result = build_loss_model(build("longrope"), 8, share_prefixes=Choice.auto, longest=longest)

    assert (loss_model.packed, loss_model.shares_prefixes) == (True, shares)
    reason = "rotary embeddings differ between documents up to the model's original length and longer ones"
    assert result.reason == ("" if shares else reason)


def test_a_prefix_of_documents_on_both_sides_is_refused():
    (embedding,) = install_document_rotary(build("longrope"))

    assert embedding.token_groups(pack_row([4, 40, 30], [-1, 0, -1])) == [list(range(44)), list(range(44, 74))]
    with pytest.raises(MixedLengthsError, match="documents of different lengths share a prefix"):
        embedding.token_groups(pack_row([4, 40, 20], [-1, 0, 0]))


def test_a_copied_model_uses_its_own_rows():
    model = build("longrope")
    (embedding,) = install_document_rotary(model)
    assert install_document_rotary(model) == [embedding]
    copied = copy.deepcopy(model)
    use_packed_attention(copied)
    row = pack_row([3])
    copied(input_ids=torch.arange(3)[None], position_ids=row.positions, **document_arguments(row))

    (own,) = install_document_rotary(copied)
    assert own is not embedding
    assert own.module is not embedding.module
    assert (own.row, embedding.row) == (row, None)
