"""The loss where it is needed: logits exist for the trained positions only, a chunk at a time.

Shapes: T tokens of the row, N trained positions, V vocabulary, K terms.
"""

from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import Tensor, nn

from sft_cli.batching.packed_row import Documents
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.attention.packing import ProbeResult, documents_arguments, probe, use_packed
from sft_cli.model.head.chunked_loss import Head, Task, plain_values, weighted_sum
from sft_cli.model.head.kl_reference import reference
from sft_cli.model.head.load_balancing import router_of
from sft_cli.model.head.logits import HeadPath, Rescale, fallback_path, in_sequence, rescaling, virtual_tokens
from sft_cli.model.head.neftune import embedding_noise
from sft_cli.model.head.objective import term_names
from sft_cli.model.quant import causal_lm, evaluating

PLAIN = LossConfig()


class States(NamedTuple):
    """What the model gives at the trained positions: ``(N, width)`` or ``(N, V)``, and its routers' logits."""

    at_targets: Tensor
    router_logits: Any


class LossModel(nn.Module):
    """A causal LM that returns its loss. Everything goes through ``forward``, so DDP may wrap it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        packed: bool,
        chunk: int,
        path: HeadPath | None = None,
        loss: LossConfig = PLAIN,
        shares: bool = False,
    ) -> None:
        """Wrap a model; with ``loss.kl``, before anything of it is trained or restored.

        Args:
            model: A transformers causal LM or a PEFT model around one.
            packed: The model runs ``sft_packed`` attention; otherwise a row is one document.
            chunk: Most trained positions whose logits exist at once.
            path: How logits are made; None probes (run it outside DDP, in the precision of training).
            loss: The objective.
            shares: Documents of a row may share what they begin with, as long as nothing is drawn at random.

        Raises:
            SftError: The model lacks what the objective needs.
        """
        super().__init__()
        self.model, self.packed, self.shares, self.loss = model, packed, shares, loss
        virtual = virtual_tokens(model)
        self.shift = virtual if virtual and in_sequence(model) else 0
        lm = causal_lm(model)
        found = None if virtual or path not in (None, HeadPath.chunks) else rescaling(model)
        if path is None:
            path = HeadPath.whole if virtual else HeadPath.chunks if found is not None else fallback_path(model)
        assert path is not HeadPath.chunks or found is not None, "the logits are not made as the configuration says"
        assert (path is HeadPath.whole) == bool(virtual), "virtual tokens need PEFT's own forward, nothing else"
        self.path, self.rescale, self.chunk = path, found or Rescale(), chunk
        self.keeps = path is not HeadPath.row and fallback_path(model) is HeadPath.positions
        self.router = router_of(lm, loss.router)
        self.reference = reference(model) if loss.kl else None

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        documents: Documents,
        targets: Tensor,
        target_at: Tensor,
        target_weights: Tensor,
        replay: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The objective and its terms, in nats: float32 scalars by name, ``loss`` with a graph, all others without.

        Each is the sum over the trained positions of weight x term; the weights hold whatever it is divided by.
        ``loss`` is the whole objective and ``nll`` plain cross-entropy, whatever is minimised; then those of
        ``smoothing``, ``z``, ``dft`` and ``kl`` that are on (``objective.score`` has their formulas), ``router``, and
        ``replay``, the share of the loss that the targets of replayed documents make up.
        No position gives a zero with a graph, so that ranks without work join the gradient exchange.

        Args:
            input_ids: ``(1, T)``.
            positions: ``(1, T)``, from 0 in every document.
            documents: What lies where in the row.
            targets: ``(N,)`` the token that should follow.
            target_at: ``(N,)`` place in the row of the token that predicts it.
            target_weights: ``(N,)`` float32.
            replay: ``(N,)`` bool: targets of replayed documents; None when there are none.
        """
        row = (input_ids, positions, documents, target_at)
        head, base = self.head(), None
        if self.reference is not None:
            with self.reference.active():
                base = self.states(*row, shift=0).at_targets
        noisy = self.training and self.loss.neftune > 0
        with embedding_noise(causal_lm(self.model), self.loss.neftune, documents) if noisy else nullcontext():
            states = self.states(*row, shift=self.shift)
        task = Task(states.at_targets, targets, target_weights, self.loss, base, self.reference)
        loss, values = weighted_sum(head, task)
        sums = values @ target_weights
        terms = {name: sums[place] for place, name in enumerate(term_names(self.loss)) if name != "loss"}
        if self.router is not None:
            balance = self.router.loss(states.router_logits, target_weights)
            loss, terms["router"] = loss + balance, balance.detach()
        if replay is not None:
            terms["replay"] = (values[0] * target_weights) @ replay.to(target_weights.dtype)
        return {"loss": loss, **terms}

    def token_losses(
        self, input_ids: Tensor, positions: Tensor, documents: Documents, targets: Tensor, target_at: Tensor
    ) -> Tensor:
        """``(N,)`` plain cross-entropies in nats, in evaluation mode and without gradient; see ``forward``."""
        with evaluating(self):
            states = self.states(input_ids, positions, documents, target_at, shift=self.shift).at_targets
            return plain_values(self.head(), Task(states, targets, targets.new_ones(len(targets)), PLAIN))[1]

    def head(self) -> Head:
        """What turns states into logits."""
        if self.path is not HeadPath.chunks:
            return Head(nn.Identity(), Rescale(), self.chunk)
        module = causal_lm(self.model).get_output_embeddings()
        assert module is not None, "only a model with a head takes the chunked path"
        return Head(module, self.rescale, self.chunk)

    def states(
        self, input_ids: Tensor, positions: Tensor, documents: Documents, target_at: Tensor, *, shift: int
    ) -> States:
        """What the model gives at ``target_at``; its logits begin ``shift`` places before the row's."""
        lm = causal_lm(self.model)
        row = {"input_ids": input_ids, **self.row_arguments(positions, documents)}
        if self.router is not None:
            row["output_router_logits"] = True
        if self.path is HeadPath.chunks:
            given = lm.base_model(**row)
            at_targets = given.last_hidden_state[0, target_at]
        else:
            whole = self.model if self.path is HeadPath.whole else lm
            if self.keeps:
                given = whole(**row, logits_to_keep=target_at + shift)
                at_targets = given.logits[0]
            else:
                given = whole(**row)
                at_targets = given.logits[0, target_at + shift]
        return States(at_targets, given.router_logits if self.router is not None else None)

    def row_arguments(self, positions: Tensor, documents: Documents) -> dict[str, Any]:
        """What the model is told about the row: positions and bounds when packed, nothing for a lone document."""
        if self.packed:
            return {"position_ids": positions, **documents_arguments(documents)}
        assert len(documents.lengths) == 1, "a model that cannot be packed takes one document per row"
        return {"use_cache": False}


def packed_loss_model(
    model: nn.Module, chunk: int, loss: LossConfig = PLAIN, share: Choice = Choice.auto, *, packing: bool = True
) -> tuple[LossModel, ProbeResult]:
    """The model with its loss, packed where that is proven sound, and the proof; call it in the precision of use.

    Args:
        model: A transformers causal LM or a PEFT model around one; its attention is changed in place.
        chunk: Most trained positions whose logits exist at once.
        loss: The objective.
        share: ``speed.share_prefixes``; never: nothing is shared, proven or not.
        packing: ``speed.packing``; false: one document per row, whatever could be proven.
    """
    if not packing:
        asked = ProbeResult(False, float("inf"), "as asked for")
        return LossModel(model, packed=False, chunk=chunk, loss=loss), asked
    if virtual_tokens(model):
        reason = "its virtual tokens stand before the row, not before every document in it"
        return LossModel(model, packed=False, chunk=chunk, loss=loss), ProbeResult(False, float("inf"), reason)
    probed = probe(model)
    if probed.packed_ok:
        use_packed(model)
    shares = probed.shared_ok and share is not Choice.never
    return LossModel(model, packed=probed.packed_ok, chunk=chunk, loss=loss, shares=shares), probed
