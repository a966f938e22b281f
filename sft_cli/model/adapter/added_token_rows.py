"""Embedding rows of tokens that were added to the vocabulary (``model.add_tokens``)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def add_token_rows(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Add a row for each id to the embedding and, if it has a separate matrix, to the head; in place.

    A new row, and a new bias of the head, is the mean of the old ones: a new token is then as likely as the others are
    on average (Hewitt 2021, "Initializing new word embeddings"). Matrices with spare rows keep their size; others grow
    only by the missing rows.

    Args:
        model: The base as loaded, on any device; its new rows must not have been trained.
        ids: The new ids: consecutive, after all others.
    """
    if not ids:
        return
    first, last = min(ids), max(ids)
    assert sorted(ids) == list(range(first, last + 1)), "new tokens follow one another"
    if last >= len(embedding_matrices(model)[0]):
        requires_grad = {name: value.requires_grad for name, value in model.named_parameters()}
        # The default initialization would draw random numbers.
        model.resize_token_embeddings(last + 1, mean_resizing=False)
        for name, value in model.named_parameters():
            value.requires_grad_(requires_grad[name])
    for values in embedding_matrices(model):
        fill_with_mean(values, first, last + 1)


def embedding_matrices(model: PreTrainedModel) -> list[Tensor]:
    """Return the weights ``(vocabulary, width)`` of embedding and head, and the head's bias; a tied weight once."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, nn.Embedding)
    matrices: list[Tensor] = [embedding.weight]
    if isinstance(head, nn.Linear):
        matrices += [] if head.weight is embedding.weight else [head.weight]
        matrices += [] if head.bias is None else [head.bias]
    return matrices


def fill_with_mean(values: Tensor, first: int, end: int) -> None:
    """Set ``values[first:end]`` to the mean of ``values[:first]``, summed in float32."""
    with torch.no_grad():
        # In blocks, because a float32 copy of the matrix of a large vocabulary takes gigabytes.
        total = torch.stack([block.float().sum(dim=0) for block in values[:first].split(8192)]).sum(dim=0)
        values[first:end] = (total / first).to(values.dtype)
