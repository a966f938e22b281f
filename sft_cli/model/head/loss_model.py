"""A causal LM that returns its loss: logits exist only for the trained positions, one chunk at a time.

Shapes: T tokens of the row, N trained positions, V vocabulary, K terms.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from sft_cli.batching.packed_row import PackedRow
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.prompt_learning import num_prepended_vectors
from sft_cli.model.attention.packing import document_arguments, use_packed_attention
from sft_cli.model.attention.probe import ProbeResult, probe_packing
from sft_cli.model.attention.rotary import install_document_rotary, shares_frequencies
from sft_cli.model.head.chunked_loss import LossInputs, OutputHead, loss_values, weighted_loss
from sft_cli.model.head.kl_reference import make_kl_reference
from sft_cli.model.head.load_balancing import make_load_balancing_loss
from sft_cli.model.head.logits import (
    LogitsPath,
    LogitsRescaling,
    are_vectors_in_sequence,
    fallback_path,
    find_rescaling,
)
from sft_cli.model.head.neftune import embedding_noise
from sft_cli.model.head.objective import term_names
from sft_cli.model.quant import causal_lm, evaluation_mode

PLAIN_LOSS = LossConfig()
LENGTH_REASON = "rotary embeddings differ between documents up to the model's original length and longer ones"
"""Reason against sharing a common prefix."""


class TargetStates(NamedTuple):
    """The model's output at the trained positions, ``(N, width)`` or ``(N, V)``, and the logits of its routers."""

    at_targets: Tensor
    router_logits: Any


class LossModel(nn.Module):
    """A causal LM that returns its loss. All calls use ``forward``, so DDP may wrap it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        packed: bool,
        chunk: int,
        path: LogitsPath | None = None,
        loss: LossConfig = PLAIN_LOSS,
        shares_prefixes: bool = False,
    ) -> None:
        """Wrap a model; with ``loss.kl``, before any of its weights is trained or restored.

        Args:
            model: A transformers causal LM or a PEFT model around one.
            packed: Whether the model runs ``sft_packed`` attention; otherwise a row is one document.
            chunk: Largest number of trained positions whose logits exist at once.
            path: The part of the model that computes logits; None: find it (outside DDP, in the precision of training).
            loss: The objective.
            shares_prefixes: Whether documents of a row may share a prefix, as long as training draws no random numbers.

        Raises:
            SftError: The model does not support the objective.
        """
        super().__init__()
        self.model, self.packed, self.shares_prefixes, self.loss = model, packed, shares_prefixes, loss
        install_document_rotary(model)
        num_vectors = num_prepended_vectors(model)
        self.logits_shift = num_vectors if num_vectors and are_vectors_in_sequence(model) else 0
        lm = causal_lm(model)
        rescaling = None if num_vectors or path not in (None, LogitsPath.chunks) else find_rescaling(model)
        if path is None:
            path = (
                LogitsPath.whole
                if num_vectors
                else LogitsPath.chunks
                if rescaling is not None
                else fallback_path(model)
            )
        assert path is not LogitsPath.chunks or rescaling is not None, (
            "the logits are not computed as the configuration states"
        )
        assert (path is LogitsPath.whole) == bool(num_vectors), "PEFT's own forward is for virtual tokens only"
        self.path, self.rescale, self.chunk = path, rescaling or LogitsRescaling(), chunk
        self.selects_logits = path is not LogitsPath.row and fallback_path(model) is LogitsPath.positions
        self.router = make_load_balancing_loss(lm, loss.router)
        self.reference = make_kl_reference(model) if loss.kl else None

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        documents: PackedRow,
        targets: Tensor,
        target_at: Tensor,
        target_weights: Tensor,
        replay: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the objective and its terms, in nats: float32 scalars by name, only ``loss`` with a graph.

        Each term is the sum over the trained positions of weight x value; the weights include the divisor.
        ``loss`` is the whole objective and ``nll`` always the plain cross-entropy; then those of ``smoothing``, ``z``,
        ``dft`` and ``kl`` that are on (see ``objective.loss_and_gradient``), ``router``, and ``replay``, the part of
        the loss from the targets of replayed documents.
        Without positions the loss is zero with a graph, so that ranks without work join the gradient exchange.

        Args:
            input_ids: ``(1, T)``.
            positions: ``(1, T)``, from 0 in every document.
            documents: The segments of the row.
            targets: ``(N,)`` the tokens to predict.
            target_at: ``(N,)`` index in the row of the token that predicts each target.
            target_weights: ``(N,)`` float32.
            replay: ``(N,)`` bool: targets of replayed documents; None when there are none.
        """
        row = (input_ids, positions, documents, target_at)
        head, base = self.output_head(), None
        if self.reference is not None:
            with self.reference.activate():
                base = self.target_states(*row, logits_shift=0).at_targets
        add_noise = self.training and self.loss.neftune > 0
        with embedding_noise(causal_lm(self.model), self.loss.neftune, documents) if add_noise else nullcontext():
            states = self.target_states(*row, logits_shift=self.logits_shift)
        task = LossInputs(states.at_targets, targets, target_weights, self.loss, base, self.reference)
        loss, values = weighted_loss(head, task)
        weighted_terms = zip(term_names(self.loss), values * target_weights, strict=True)
        # Sums, not matrix products: autocast would compute those in half precision.
        terms = {name: term.sum() for name, term in weighted_terms if name != "loss"}
        if self.router is not None:
            balance = self.router.loss(states.router_logits, target_weights)
            loss, terms["router"] = loss + balance, balance.detach()
        if replay is not None:
            terms["replay"] = (values[0] * target_weights * replay).sum()
        return {"loss": loss, **terms}

    def token_losses(
        self, input_ids: Tensor, positions: Tensor, documents: PackedRow, targets: Tensor, target_at: Tensor
    ) -> Tensor:
        """Return ``(N,)`` plain cross-entropies in nats, in evaluation mode and without gradients; see ``forward``."""
        with evaluation_mode(self):
            states = self.target_states(
                input_ids, positions, documents, target_at, logits_shift=self.logits_shift
            ).at_targets
            return loss_values(
                self.output_head(), LossInputs(states, targets, targets.new_ones(len(targets)), PLAIN_LOSS)
            )[1]

    def output_head(self) -> OutputHead:
        """Return the mapping from states to logits."""
        if self.path is not LogitsPath.chunks:
            return OutputHead(nn.Identity(), LogitsRescaling(), self.chunk)
        module = causal_lm(self.model).get_output_embeddings()
        assert module is not None, "only a model with a head has the chunked path"
        return OutputHead(module, self.rescale, self.chunk)

    def target_states(
        self, input_ids: Tensor, positions: Tensor, documents: PackedRow, target_at: Tensor, *, logits_shift: int
    ) -> TargetStates:
        """Return the model's output at ``target_at``; ``logits_shift`` further logits precede those of the row."""
        lm = causal_lm(self.model)
        row = {"input_ids": input_ids, **self.row_arguments(positions, documents)}
        if self.router is not None:
            row["output_router_logits"] = True
        if self.path is LogitsPath.chunks:
            outputs = lm.base_model(**row)
            at_targets = outputs.last_hidden_state[0, target_at]
        else:
            called_model = self.model if self.path is LogitsPath.whole else lm
            if self.selects_logits:
                outputs = called_model(**row, logits_to_keep=target_at + logits_shift)
                at_targets = outputs.logits[0]
            else:
                outputs = called_model(**row)
                at_targets = outputs.logits[0, target_at + logits_shift]
        return TargetStates(at_targets, outputs.router_logits if self.router is not None else None)

    def row_arguments(self, positions: Tensor, documents: PackedRow) -> dict[str, Any]:
        """Return the model's arguments for the row: positions and bounds when packed, none for a single document."""
        if self.packed:
            return {"position_ids": positions, **document_arguments(documents)}
        assert len(documents.lengths) == 1, "a model that cannot be packed takes one document per row"
        return {"use_cache": False}


def build_loss_model(
    model: nn.Module,
    chunk: int,
    loss: LossConfig = PLAIN_LOSS,
    share_prefixes: Choice = Choice.auto,
    *,
    packing: bool = True,
    row_tokens: int = 0,
    longest: int | None = None,
) -> tuple[LossModel, ProbeResult]:
    """Build the model with its loss, packed if a probe shows it to be correct; call it in the precision of use.

    Args:
        model: A transformers causal LM or a PEFT model around one; its attention is changed in place.
        chunk: Largest number of trained positions whose logits exist at once.
        loss: The objective.
        share_prefixes: ``speed.share_prefixes``; never: nothing is shared, whatever the probe finds.
        packing: ``speed.packing``; false: one document per row, without a probe.
        row_tokens: ``speed.tokens_per_micro_batch``; see ``probe_packing``.
        longest: Number of tokens of the longest document; None if it is unknown.

    Returns:
        The model, and the result of the probe.
    """
    if not packing:
        unpacked = ProbeResult(False, float("inf"), "as configured")
        return LossModel(model, packed=False, chunk=chunk, loss=loss), unpacked
    if num_prepended_vectors(model):
        reason = "its virtual tokens precede the row, not every document in it"
        return LossModel(model, packed=False, chunk=chunk, loss=loss), ProbeResult(False, float("inf"), reason)
    probe_result = probe_packing(model, row_tokens)
    if probe_result.packed_ok:
        use_packed_attention(model)
    if probe_result.shared_ok and not shares_frequencies(model, longest):
        probe_result = replace(probe_result, shared_ok=False, reason=LENGTH_REASON)
    shares_prefixes = probe_result.shared_ok and share_prefixes is not Choice.never
    return LossModel(
        model, packed=probe_result.packed_ok, chunk=chunk, loss=loss, shares_prefixes=shares_prefixes
    ), probe_result
