"""The loss where it is needed: logits exist for the trained positions only, a chunk at a time.

Shapes: T tokens of the row, N trained positions, V vocabulary, C positions of a chunk.
"""

import inspect
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sft_cli.model.attention import ProbeResult, bounds_arguments, generating, probe, use_packed
from sft_cli.model.quant import causal_lm, evaluating


class HeadPath(str, Enum):
    """How the logits are made.

    ``chunks`` applies the output embedding to chunks of hidden states; ``positions`` lets the model make the logits
    of the trained positions (families that scale or cap them); ``row`` lets it make all T of them.
    """

    chunks = "chunks"
    positions = "positions"
    row = "row"


def head_path(model: nn.Module) -> HeadPath:
    """The cheapest exact path, found by comparing logits of eight random tokens: they must be equal to the bit.

    A cap of 30 changes small logits by one part in a million: a tolerance would overlook it.
    """
    lm = causal_lm(model)
    ids = torch.randint(lm.config.get_text_config().vocab_size, (1, 8), generator=torch.Generator().manual_seed(0))
    ids = ids.to(lm.device)
    head, decoder = lm.get_output_embeddings(), lm.base_model
    if head is not None and decoder is not lm:
        with generating(model):
            own = lm(input_ids=ids, use_cache=False).logits
            ours = head(decoder(input_ids=ids, use_cache=False).last_hidden_state)
        if own.shape == ours.shape and torch.equal(own.float(), ours.float()):
            return HeadPath.chunks
    accepts = "logits_to_keep" in inspect.signature(lm.forward).parameters
    return HeadPath.positions if accepts else HeadPath.row


class LossModel(nn.Module):
    """A causal LM that returns its loss. Everything goes through ``forward``, so DDP may wrap it."""

    def __init__(self, model: nn.Module, *, packed: bool, chunk: int, path: HeadPath | None = None) -> None:
        """Wrap a model.

        Args:
            model: A transformers causal LM or a PEFT model around one.
            packed: The model runs ``sft_packed`` attention; otherwise a row is one document.
            chunk: Trained positions whose logits exist at once, C.
            path: How logits are made; None probes (run it outside DDP, in the precision of training).
        """
        super().__init__()
        self.model, self.packed, self.chunk = model, packed, chunk
        self.path = head_path(model) if path is None else path

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        cu_seqlens: Tensor,
        max_document: int,
        targets: Tensor,
        target_at: Tensor,
        target_weights: Tensor,
    ) -> Tensor:
        """Sum over the trained positions of weight x cross-entropy, in nats: a float32 scalar.

        No position gives a zero with a graph, so that ranks without work join the gradient exchange.

        Args:
            input_ids: ``(1, T)``.
            positions: ``(1, T)``, from 0 in every document.
            cu_seqlens: ``(documents + 1,)`` int32, start of each document and T.
            max_document: Tokens of the longest document.
            targets: ``(N,)`` the token that should follow.
            target_at: ``(N,)`` place in the row of the token that predicts it.
            target_weights: ``(N,)`` float32.
        """
        losses = self.losses(input_ids, positions, cu_seqlens, max_document, targets, target_at)
        return (losses * target_weights).sum()

    def token_losses(self, *row_and_targets: Any) -> Tensor:
        """``(N,)`` cross-entropies in nats, in evaluation mode and without gradient; takes what ``losses`` takes."""
        with evaluating(self):
            return self.losses(*row_and_targets)

    def losses(
        self,
        input_ids: Tensor,
        positions: Tensor,
        cu_seqlens: Tensor,
        max_document: int,
        targets: Tensor,
        target_at: Tensor,
    ) -> Tensor:
        """``(N,)`` cross-entropies in nats."""
        lm = causal_lm(self.model)
        row = {"input_ids": input_ids, **self.row_arguments(positions, cu_seqlens, max_document)}
        if self.path is HeadPath.positions:
            return cross_entropies(lm(**row, logits_to_keep=target_at).logits[0], targets)
        if self.path is HeadPath.row:
            return cross_entropies(lm(**row).logits[0, target_at], targets)
        hidden = lm.base_model(**row).last_hidden_state[0, target_at]  # (N, width)
        return self.chunked(lm, hidden, targets)

    def row_arguments(self, positions: Tensor, cu_seqlens: Tensor, max_document: int) -> dict[str, Any]:
        """What the model is told about the row: positions and bounds when packed, nothing for a lone document."""
        if self.packed:
            return {"position_ids": positions, **bounds_arguments(cu_seqlens, max_document)}
        assert cu_seqlens.numel() == 2, "a model that cannot be packed takes one document per row"
        return {"use_cache": False}

    def chunked(self, lm: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
        """``(N,)`` losses of ``(N, width)`` hidden states; a chunk's ``(C, V)`` logits are made again for backward."""
        head = lm.get_output_embeddings()
        assert head is not None, "only a model with a head takes the chunked path"

        def loss_of(states: Tensor, wanted: Tensor) -> Tensor:
            return cross_entropies(head(states), wanted)

        # split() of nothing is one empty chunk, which keeps a trainable head in the graph.
        chunks = zip(hidden.split(self.chunk), targets.split(self.chunk), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([loss_of(states, wanted) for states, wanted in chunks])
        return torch.cat(
            [
                checkpoint(loss_of, states, wanted, use_reentrant=False, preserve_rng_state=False)
                for states, wanted in chunks
            ]
        )


def packed_loss_model(model: nn.Module, chunk: int) -> tuple[LossModel, ProbeResult]:
    """The model with its loss, packed where that is proven sound, and the proof; call it in the precision of use.

    Args:
        model: A transformers causal LM or a PEFT model around one; its attention is changed in place.
        chunk: Trained positions whose logits exist at once.
    """
    probed = probe(model)
    if probed.packed_ok:
        use_packed(model)
    return LossModel(model, packed=probed.packed_ok, chunk=chunk), probed


def cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """``(N,)`` cross-entropies in nats of ``(N, V)`` logits, computed in float32."""
    return cross_entropy(logits.float(), targets, reduction="none")
