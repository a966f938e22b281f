"""Loss and gradients of a packed row are the sums over its documents in plain transformers."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.adapter import AdapterConfig, TrainStopToken
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.logits import LogitsRescaling, find_rescaling
from sft_cli.model.head.loss_model import LogitsPath, LossModel
from tests.model.helpers import recompute_all
from tests.model.loss_helpers import gradients

LENGTHS = [6, 3, 9]
FAMILIES = ["llama", "llama-tied", "qwen2", "mistral-window", "gpt2", "gemma2", "cohere", "granite"]


def reference(model, batch):
    """Return the loss and gradients of plain transformers: each document alone, all logits."""
    total = torch.zeros(())
    for ids in batch.documents:
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
        losses = cross_entropy(logits[[0, len(ids) - 2]], ids[[1, len(ids) - 1]], reduction="none")
        total = total + (losses * torch.tensor([1.0, 0.5])).sum()
    return total


def assert_same(left, right):
    """Check loss and gradients to 1e-5 of the largest entry of each tensor."""
    torch.testing.assert_close(left[0], right[0], rtol=1e-5, atol=0)
    assert left[1].keys() == right[1].keys()
    for name, value in left[1].items():
        torch.testing.assert_close(right[1][name], value, rtol=0, atol=1e-5 * max(value.abs().max().item(), 1e-3))


def packed_loss(model, batch, chunk=1024):
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=chunk)
    return loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_loss_and_gradients_equal_separate_documents(build, make_batch, family, chunk):
    batch = make_batch(LENGTHS)
    model = build(family)
    solo = reference(model, batch)
    expected = (solo.detach(), gradients(model, solo))
    loss = packed_loss(model, batch, chunk)

    assert loss.dtype == torch.float32
    assert_same((loss.detach(), gradients(model, loss)), expected)


RESCALED = {
    "gemma2": LogitsRescaling(cap=30.0),
    "cohere": LogitsRescaling(factor=0.0625),
    "granite": LogitsRescaling(divisor=3.0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_find_rescaling(build, family):
    """Gemma 2 caps its logits, Cohere and Granite scale them."""
    model = build(family)
    assert find_rescaling(model) == RESCALED.get(family, LogitsRescaling())
    use_packed_attention(model)
    assert LossModel(model, packed=True, chunk=4).path is LogitsPath.chunks


def test_unknown_rescaling_uses_the_models_logits(build, make_batch):
    """The configuration has a cap, which is applied, and a divisor, which the model ignores: no rescaling matches."""
    batch, model = make_batch(LENGTHS), build("gemma2")
    expected = packed_loss(model, batch)
    model.config.logits_scaling = 7.0
    loss_model = LossModel(model, packed=True, chunk=4)

    assert find_rescaling(model) is None
    assert loss_model.path is LogitsPath.positions
    torch.testing.assert_close(packed_loss(model, batch), expected, rtol=1e-6, atol=0)
    with pytest.raises(AssertionError, match="not computed as the configuration states"):
        LossModel(model, packed=True, chunk=4, path=LogitsPath.chunks)


def test_find_rescaling_ignores_unused_keys(build):
    model = build("llama")
    model.config.logits_scaling = 7.0
    assert find_rescaling(model) == LogitsRescaling()


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "gpt2"])
def test_all_logits_paths_agree(build, make_batch, family):
    """They agree in the loss and in every gradient."""
    batch = make_batch(LENGTHS)
    found = []
    for path in (LogitsPath.row, LogitsPath.positions, LogitsPath.chunks):
        model = build(family)
        use_packed_attention(model)
        loss = LossModel(model, packed=True, chunk=2, path=path)(
            *batch.row, batch.targets, batch.target_at, batch.target_weights
        )["loss"]
        found.append((loss.detach(), gradients(model, loss)))

    for one in found[1:]:
        assert_same(one, found[0])


def test_separate_rows_sum_to_the_packed_row(build, make_batch):
    """A model that fails the probe is trained with one document per row and gives the same numbers."""
    batch, model = make_batch(LENGTHS), build("llama")
    loss_model = LossModel(model, packed=False, chunk=1024)
    total = torch.zeros(())
    for ids in batch.documents:
        length = len(ids)
        at = torch.tensor([0, length - 2])
        row = (ids[None], torch.arange(length)[None], pack_row([length]), ids[at + 1], at)
        total = total + loss_model(*row, torch.tensor([1.0, 0.5]))["loss"]

    torch.testing.assert_close(packed_loss(model, batch), total, rtol=1e-5, atol=0)


def test_unpacked_row_refuses_two_documents(build, make_batch):
    batch = make_batch([4, 4])
    with pytest.raises(AssertionError, match="one document per row"):
        LossModel(build("llama"), packed=False, chunk=4)(
            *batch.row, batch.targets, batch.target_at, batch.target_weights
        )


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_row_without_targets_is_zero_with_a_graph(build, family):
    """A rank without work runs one dummy token, and every parameter gets a zero gradient for the exchange."""
    model = build(family)
    use_packed_attention(model)
    nothing = torch.zeros(0, dtype=torch.long)
    row = (torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    loss = LossModel(model, packed=True, chunk=8)(*row, pack_row([1]), nothing, nothing, torch.zeros(0))["loss"]
    found = gradients(model, loss)

    assert loss.item() == 0.0
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert all(not value.any() for value in found.values())


@pytest.mark.parametrize("stop_ids", [[], [2, 7]])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_adapter_gradients_equal_plain_transformers(build, make_batch, family, stop_ids, checkpointing):
    """Also with trained embedding rows, a tied head and recomputed layers; only adapter parameters get gradients."""
    batch = make_batch(LENGTHS)
    config = AdapterConfig(rank=4, train_stop_token=TrainStopToken.always if stop_ids else TrainStopToken.never)
    model = add_adapter(build(family), config, stop_ids, seed=0).model
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data = torch.randn(value.shape, generator=generator) * 0.1
    if checkpointing:
        recompute_all(model)
    solo = reference(model, batch)
    expected = (solo.detach(), gradients(model, solo))
    loss = packed_loss(model, batch, chunk=4)
    found = gradients(model, loss)

    assert_same((loss.detach(), found), expected)
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in found)
    assert any("trainable_tokens_delta" in name for name in found) == bool(stop_ids)


def test_token_losses_equal_training_terms(build, make_batch):
    batch, model = make_batch(LENGTHS), build("llama")
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4)
    losses = loss_model.token_losses(*batch.row, batch.targets, batch.target_at)
    total = loss_model(*batch.row, batch.targets, batch.target_at, batch.target_weights)["loss"]

    assert losses.shape == (6,)
    assert not losses.requires_grad
    assert model.training
    torch.testing.assert_close((losses * batch.target_weights).sum(), total.detach(), rtol=1e-6, atol=0)


def test_half_precision_logits_are_reduced_in_float32(build, make_batch):
    batch, model = make_batch(LENGTHS), build("llama").bfloat16()
    use_packed_attention(model)
    losses = LossModel(model, packed=True, chunk=4).token_losses(*batch.row, batch.targets, batch.target_at)
    assert losses.dtype == torch.float32


def test_autocast_keeps_the_loss_in_float32(build, make_batch):
    """Under bfloat16 autocast the loss is close to the float32 one."""
    batch, model = make_batch(LENGTHS), build("llama")
    exact = packed_loss(model, batch, chunk=2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = packed_loss(model, batch, chunk=2)
    rough.backward()

    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
    assert model.lm_head.weight.grad is not None
