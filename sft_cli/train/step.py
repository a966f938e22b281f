"""One optimizer step: the gradient of its loss, and more recomputation where memory runs out on the way."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sft_cli.console import say
from sft_cli.model.memory.checkpointing import Recompute, apply, more
from sft_cli.model.memory.kept import decoder_layers
from sft_cli.train.feed import LaidStep
from sft_cli.train.layout import Batch


def compute_gradient(loss_model: nn.Module, accelerator: Accelerator, laid: LaidStep) -> dict[str, Tensor]:
    """Accumulate the gradient of a step's loss over its micro-batches.

    The loss of the whole step is one sum: what it is divided by stands in the weights of its targets, and is known
    before anything is computed. No micro-batch, rank or padding can change it.

    Args:
        loss_model: The prepared LossModel.
        accelerator: Owns devices and ranks.
        laid: The step as this rank computes it.

    Returns:
        The objective and its terms, summed over ranks: float32 scalars on the device, without a graph.
    """
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(laid.batches):
        last = number + 1 == len(laid.batches)
        with nullcontext() if last else accelerator.no_sync(loss_model):
            terms = loss_model(**arguments(batch))
            # DDP averages gradients over ranks; the sum is wanted.
            accelerator.backward(terms["loss"] * accelerator.num_processes)
        for name, value in terms.items():
            sums[name] = value.detach() + sums[name] if name in sums else value.detach()
    total = accelerator.reduce(torch.stack([value.float() for value in sums.values()]), reduction="sum")
    assert isinstance(total, Tensor)
    return dict(zip(sums, total.unbind(), strict=True))


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
    recompute: Recompute
    allowed: bool = True

    def gradient(self, loss_model: nn.Module, accelerator: Accelerator, laid: LaidStep) -> dict[str, Tensor]:
        """``compute_gradient``, begun again with more recomputation as often as the device runs out of memory.

        Nothing of the step has been applied by then, and dropout draws what it drew before: the step is the same.
        """
        device = accelerator.device
        while True:
            drawn = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
            try:
                return compute_gradient(loss_model, accelerator, laid)
            except torch.OutOfMemoryError:
                if (recompute := self._next(device)) is None:
                    raise
            # Behind the except clause: the error holds on to the tensors of the failed attempt.
            loss_model.zero_grad()
            torch.set_rng_state(drawn[0])
            if drawn[1] is not None:
                torch.cuda.empty_cache()
                torch.cuda.set_rng_state(drawn[1], device)
            self.recompute = recompute
            apply(self.model, recompute)
            say(f"memory    {recompute.sentence()}")

    def _next(self, device: torch.device) -> Recompute | None:
        """The next step up, if there is one."""
        layers = len(decoder_layers(self.model))
        return more(self.recompute, layers, device) if layers and self.allowed else None
