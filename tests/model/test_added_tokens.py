"""Rows of added tokens: initial values, matrix sizes, training, saving, loading and merging."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig

from sft_cli.config.schema.adapter import AdapterConfig, QuantConfig, QuantKind
from sft_cli.config.schema.config import ModelConfig
from sft_cli.model.adapter.add import add_adapter, load_adapter
from sft_cli.model.adapter.added_token_rows import add_token_rows, embedding_matrices
from sft_cli.model.attention.packing import use_default_attention, use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.load import load_model
from sft_cli.model.quant import evaluation_mode

CPU = torch.device("cpu")


def vocabulary(model):
    return model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma2", "gpt2"])
def test_missing_rows_are_appended_at_the_mean(build, family):
    model, before = build(family), [value.detach().clone() for value in embedding_matrices(build(family))]
    add_token_rows(model, [160, 161])
    after = embedding_matrices(model)
    assert len(after) == len(before) == (2 if family == "llama" else 1)
    for old, new in zip(before, after, strict=True):
        assert new.shape == (162, old.shape[1])
        assert torch.equal(new[:160], old)
        assert torch.equal(new[160], new[161])
        torch.testing.assert_close(new[160], old.mean(dim=0))
    assert model.config.get_text_config().vocab_size == 162
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert (head.weight is embedding.weight) is (family != "llama")
    assert all(value.requires_grad for value in model.parameters())
    assert model(torch.tensor([[160, 5, 161]])).logits.shape == (1, 3, 162)


def test_spare_rows_are_used_before_the_matrix_grows(build):
    """Of 160 rows the tokenizer uses 150: spare rows do not count for the mean and change only if they are new."""
    model, before = build("llama"), [value.detach().clone() for value in embedding_matrices(build("llama"))]
    add_token_rows(model, [150, 151])
    assert vocabulary(model) == 160
    for old, new in zip(before, embedding_matrices(model), strict=True):
        assert torch.equal(new[:150], old[:150])
        assert torch.equal(new[152:], old[152:])
        torch.testing.assert_close(new[150], old[:150].mean(dim=0))
        assert torch.equal(new[150], new[151])


def test_add_token_rows_with_too_few_spare_rows(build):
    model = build("llama")
    add_token_rows(model, [159, 160])
    assert vocabulary(model) == 161
    assert torch.equal(model.lm_head.weight[159], model.lm_head.weight[160])


def test_bias_of_the_head_starts_at_its_mean():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        PhiConfig(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4)
    )
    torch.nn.init.normal_(model.lm_head.bias)
    old = model.lm_head.bias.detach().clone()
    add_token_rows(model, [160])
    torch.testing.assert_close(model.lm_head.bias, torch.cat([old, old.mean()[None]]))


def test_no_added_tokens_change_nothing(build):
    model, before = build("llama"), build("llama").state_dict()
    add_token_rows(model, [])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def load(saved, ids, kind=QuantKind.none, **values):
    settings = {"full": False, "device": CPU, "compute_dtype": torch.float32, **values}
    return load_model(ModelConfig(path=str(saved)), QuantConfig(kind=kind), added_ids=ids, **settings)


@pytest.mark.parametrize("kind", [QuantKind.none, QuantKind.nf4, QuantKind.int8])
def test_load_model_adds_rows_for_every_storage(saved, kind):
    model = load(saved, [160, 161], kind)
    plain = load(saved, [160, 161])
    assert torch.equal(model.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    assert vocabulary(model) == 162
    assert {value.dtype for value in load(saved, [160], compute_dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", [QuantKind.none, QuantKind.nf4])
def test_lora_trains_saves_loads_and_merges_only_added_rows(build, make_batch, tmp_path, kind, tied):
    source, adapter, whole = (tmp_path / name for name in ("base", "adapter", "merged"))
    build("llama-tied" if tied else "llama").save_pretrained(source)
    base = load(source, [160, 161], kind)
    before = [value.detach().clone() for value in embedding_matrices(base)]
    model = add_adapter(base, AdapterConfig(rank=4), [2], seed=0, added_ids=[160, 161]).model
    batch = make_batch([6, 5, 9])
    ids = batch.row[0].clone()
    ids[0, 1], ids[0, 7] = 160, 161
    targets = batch.targets.clone()
    targets[0] = 160
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = loss_model(ids, *batch.row[1:], targets, batch.target_at, batch.target_weights)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(str(adapter), save_embedding_layers=False)

    use_default_attention(model)
    with evaluation_mode(model):
        expected = model(input_ids=ids).logits
    opened = load_adapter(load(source, [160, 161], kind), adapter, CPU)
    with evaluation_mode(opened):
        found = opened(input_ids=ids).logits
    assert torch.equal(found, expected)
    if kind is not QuantKind.none:
        return
    merged = opened.merge_and_unload()
    for old, new in zip(before, embedding_matrices(merged), strict=True):
        assert torch.equal(new[:160], old[:160])
        assert not torch.equal(new[160], old[160])
        assert not torch.equal(new[160], new[161])
    merged.save_pretrained(whole)
    again = AutoModelForCausalLM.from_pretrained(whole)
    assert again.config.vocab_size == 162
    torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=0, atol=1e-4)


def test_full_tuning_trains_every_row(saved):
    model = load(saved, [160], full=True)
    model(torch.tensor([[160, 4]])).logits.logsumexp(-1).sum().backward()
    assert model.get_input_embeddings().weight.grad[160].abs().sum() > 0
    assert all(value.requires_grad for value in model.parameters())
