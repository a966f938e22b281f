"""One optimizer step: the gradient of its loss, and more recomputation where memory runs out on the way."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sft_cli.batching.collate import Batch
from sft_cli.batching.prefetch import LaidStep
from sft_cli.console import say
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing, next_checkpointing_level
from sft_cli.model.memory.layer_memory import decoder_layers
from sft_cli.train.parallel import Engine

ALONE = Engine()


def compute_gradient(
    loss_model: nn.Module, accelerator: Accelerator, laid: LaidStep, engine: Engine = ALONE
) -> dict[str, Tensor]:
    """Accumulate the gradient of a step's loss over this process's micro-batches.

    The loss of the whole step is one sum: what it is divided by stands in the weights of its targets, and is known
    before anything is computed. No micro-batch, rank or padding can change it.

    Args:
        loss_model: The prepared LossModel.
        accelerator: Owns devices and ranks.
        laid: The step as this rank computes it.
        engine: How the model is computed.

    Returns:
        The objective and its terms over this process's micro-batches: float32 scalars on the device, without a graph.
    """
    sums: dict[str, Tensor] = {}
    for batch in laid.batches:
        terms = engine.run(partial(loss_model, **arguments(batch)))
        accelerator.backward(terms["loss"])
        for name, value in terms.items():
            sums[name] = value.detach() + sums[name] if name in sums else value.detach()
    return {name: value.float() for name, value in sums.items()}


def arguments(batch: Batch) -> dict[str, Any]:
    """The keyword arguments of ``LossModel.forward``."""
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}


@dataclass
class Relief:
    """What is recomputed in the backward pass, and what to do when memory runs out all the same.

    Attributes:
        model: The model whose layers are told.
        recompute: What is recomputed now.
        allowed: Whether more may be: not where the config names what is recomputed, and not under prefix tuning, whose
            keys and values are gone when a layer runs again.
    """

    model: nn.Module
    recompute: CheckpointingPlan
    allowed: bool = True

    def gradient(
        self, loss_model: nn.Module, accelerator: Accelerator, laid: LaidStep, engine: Engine = ALONE
    ) -> dict[str, Tensor]:
        """``compute_gradient`` over all processes, begun again with more recomputation where memory runs out.

        Nothing of the step has been applied or exchanged by then, and dropout draws what it drew before: the step is
        the same. When one process runs out of memory, all begin again. Where each holds a part of the model, they have
        exchanged layers by then, and the step cannot be begun again.

        Returns:
            The objective and its terms, summed over processes: float32 scalars on the device, without a graph.
        """
        device, ranks = accelerator.device, engine.ranks
        while True:
            drawn = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
            terms, short = dict[str, Tensor](), False
            try:
                terms = compute_gradient(loss_model, accelerator, laid, engine)
            except torch.OutOfMemoryError:
                if engine.sharded or self._next(device) is None:
                    raise
                short = True
            # Behind the except clause: the error holds on to the tensors of the failed attempt.
            if not engine.sharded and ranks.most([short])[0]:
                self._begin_again(loss_model, drawn, device)
                continue
            engine.add_gradients(loss_model)
            total = ranks.summed(torch.stack(list(terms.values())))
            return dict(zip(terms, total.unbind(), strict=True))

    def _begin_again(self, loss_model: nn.Module, drawn: tuple[Tensor, Tensor | None], device: torch.device) -> None:
        """Forget the step so far, and recompute more from now on."""
        loss_model.zero_grad()
        torch.set_rng_state(drawn[0])
        if drawn[1] is not None:
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(drawn[1], device)
        recompute = self._next(device)
        assert recompute is not None, "the same settings leave every process the same next step"
        self.recompute = recompute
        apply_checkpointing(self.model, recompute)
        say(f"memory    {recompute.sentence()}")

    def _next(self, device: torch.device) -> CheckpointingPlan | None:
        """The next step up, if there is one."""
        layers = len(decoder_layers(self.model))
        return next_checkpointing_level(self.recompute, layers, device) if layers and self.allowed else None
