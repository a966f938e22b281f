"""Noise on embeddings (NEFTune): its size, and only in training."""

import math

import torch

from sft_cli.batching.packed_row import pack_row
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.attention.packing import use_packed_attention
from sft_cli.model.head.loss_model import LossModel
from sft_cli.model.head.neftune import embedding_noise
from tests.model.loss_helpers import LENGTHS, documents_loss


def noise_of(model, lengths, alpha=5.0, seed=3):
    """Return the noise on the embeddings of documents of these lengths."""
    ids, embedding = torch.ones(1, sum(lengths), dtype=torch.long), model.get_input_embeddings()
    torch.manual_seed(seed)
    with embedding_noise(model, alpha, pack_row(lengths)):
        noisy = embedding(ids)
    return (noisy - embedding(ids))[0].detach()


def test_embedding_noise_depends_on_the_length_of_the_document(build):
    model = build("llama")
    parts = noise_of(model, [4, 100, 1]).split([4, 100, 1])
    for part in parts:
        bound = 5.0 / math.sqrt(part.numel())
        assert 0.9 * bound < part.abs().max() <= bound * (1 + 1e-5)
        assert abs(part.mean()) < bound / 4
    assert torch.equal(noise_of(model, [4, 100, 1]), torch.cat(parts))  # drawn by torch's generator
    assert not torch.equal(noise_of(model, [4, 100, 1], seed=4), torch.cat(parts))
    assert torch.equal(noise_of(model, [3, 2], alpha=0.0), torch.zeros(5, 128))


def test_embedding_noise_only_in_training(build, make_batch):
    batch, model = make_batch(LENGTHS), build("llama")
    use_packed_attention(model)
    loss_model = LossModel(model, packed=True, chunk=4, loss=LossConfig(neftune=5.0))
    row = (*batch.row, batch.targets, batch.target_at)
    plain = documents_loss(model, batch)["loss"]
    first, second = (loss_model(*row, batch.target_weights)["loss"] for _ in range(2))
    loss_model.eval()

    assert first != second
    assert plain != first
    assert loss_model(*row, batch.target_weights)["loss"] == plain
    torch.testing.assert_close(loss_model.token_losses(*row) @ batch.target_weights, plain.detach())
