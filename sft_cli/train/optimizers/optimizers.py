"""Optimizers.

Not offered: GaLore (galore-torch has had one release, in 2024) and APOLLO (apollo-torch is licensed for non-commercial
use only); 8-bit AdamW and Adafactor save the same memory.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import Average, OptimizerName, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.train.optimizers.param_groups import MUON_KEY, parameter_groups


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2), with decoupled weight decay.

    With gradient g and momentum m: ``p -= lr * (sign(b1 m + (1 - b1) g) + decay p)``, then
    ``m = b2 m + (1 - b2) g``. The state is m: 4 bytes per float32 parameter. The one of bitsandbytes is not used: it
    synchronizes with the device after every tensor.
    """

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes its gradients itself"
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"]
                update = momentum.lerp(p.grad, 1 - beta1).sign_()
                p.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
                momentum.lerp_(p.grad, 1 - beta2)


class Muon(torch.optim.Optimizer):
    """Torch's Muon for groups whose ``MUON_KEY`` is true and AdamW for all others, as one optimizer.

    Muon's updates are scaled to the size of AdamW's (0.2 sqrt(longer side); Liu et al. 2025, arXiv:2502.16982), so that
    one learning rate fits both. State: 4 bytes per float32 parameter of Muon, 8 per parameter of AdamW.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        groups = list(params)
        muon, adamw = ([group for group in groups if group[MUON_KEY] is uses_muon] for uses_muon in (True, False))
        # Both optimizers add their defaults to their groups, and share groups and state with this one.
        self._muon = torch.optim.Muon(muon, lr=lr, adjust_lr_fn="match_rms_adamw") if muon else None
        self._adamw = torch.optim.AdamW(adamw, lr=lr, betas=betas, fused=True) if adamw else None
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes its gradients itself"
        for part, uses_muon in ((self._muon, True), (self._adamw, False)):
            if part is not None:
                # load_state_dict replaces the groups and the state of this optimizer.
                part.param_groups = [group for group in self.param_groups if group[MUON_KEY] is uses_muon]
                part.state = self.state
                part.step()


STATE_BYTES = {
    OptimizerName.adamw: 8,
    OptimizerName.adamw_8bit: 2,
    OptimizerName.paged_adamw_8bit: 2,
    OptimizerName.adafactor: 0,
    OptimizerName.muon: 4,
    OptimizerName.lion: 4,
}
"""Bytes of state per trained float32 parameter; Adafactor keeps one number per row and column of a matrix."""


def make_optimizer(model: nn.Module, trainer: TrainerConfig, adapter: AdapterConfig) -> torch.optim.Optimizer:
    """Make the optimizer of the trained parameters; see ``parameter_groups`` for learning rates and weight decay.

    AdamW is torch's fused one on CUDA and on CPU. Adafactor is that of transformers with a fixed ``lr``: torch's
    scales it by the size of the weights, and LoRA's B begins at zero.

    Raises:
        SftError: ``trainer.lr_factors`` matches no trained parameter, or Muon has no matrix to update.
    """
    groups = parameter_groups(model, trainer, adapter)
    lr, betas = resolved(trainer.lr), trainer.betas
    match trainer.optimizer:
        case OptimizerName.adamw:
            return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
        case OptimizerName.adamw_8bit:
            from bitsandbytes.optim.adamw import AdamW8bit

            return AdamW8bit(groups, lr=lr, betas=betas)
        case OptimizerName.paged_adamw_8bit:
            from sft_cli.train.optimizers.paged_adamw import PagedAdamW

            return PagedAdamW(groups, lr=lr, betas=betas)
        case OptimizerName.adafactor:
            from transformers import Adafactor

            return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)
        case OptimizerName.lion:
            return Lion(groups, lr=lr, betas=trainer.lion_betas)
        case OptimizerName.muon:
            if not any(group[MUON_KEY] for group in groups):
                raise SftError(
                    where="trainer.optimizer=muon",
                    problem="Muon updates matrices inside the network, and none of them is trained",
                    fix="trainer.optimizer=adamw, or adapter.train=[REGEX] that selects matrices",
                )
            return Muon(groups, lr=lr, betas=betas)


def optimizer_state_bytes(trainer: TrainerConfig) -> int:
    """Return the peak bytes of optimizer and weight average per trained float32 parameter.

    An average needs its own weights, and a copy of the raw ones while it replaces them; a mean of the last k steps
    needs the weights of those steps, and that copy.
    """
    average_bytes = {Average.none: 0, Average.ema: 8, Average.last: 4 * trainer.average_last + 4}
    return STATE_BYTES[trainer.optimizer] + average_bytes[trainer.average]
