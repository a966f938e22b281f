"""Optimizers that torch does not have as they are needed here."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from sft_cli.train.optimizers.param_groups import MUON


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2), with decoupled weight decay.

    With gradient g and momentum m: ``p -= lr * (sign(b1 m + (1 - b1) g) + decay p)``, then
    ``m = b2 m + (1 - b2) g``. The state is m, 4 bytes a float32 parameter. bitsandbytes has it, too, but waits for the
    device after every tensor.
    """

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes its gradients itself"
        for group in self.param_groups:
            lr, (direction, memory) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"]
                update = momentum.lerp(p.grad, 1 - direction).sign_()
                p.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
                momentum.lerp_(p.grad, 1 - memory)


class Muon(torch.optim.Optimizer):
    """Muon of torch for groups whose key ``MUON`` is true, AdamW for all others, as one optimizer.

    Muon's updates are scaled to the size of AdamW's (0.2 sqrt(longer side); Liu et al. 2025, arXiv:2502.16982), so that
    one learning rate serves both. State: 4 bytes a float32 parameter of Muon's, 8 of AdamW's.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        groups = list(params)
        muon, adamw = ([group for group in groups if group[MUON] is wanted] for wanted in (True, False))
        # The parts fill in what their groups lack, and share groups and state with the whole.
        self._muon = torch.optim.Muon(muon, lr=lr, adjust_lr_fn="match_rms_adamw") if muon else None
        self._adamw = torch.optim.AdamW(adamw, lr=lr, betas=betas, fused=True) if adamw else None
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes its gradients itself"
        for part, mine in ((self._muon, True), (self._adamw, False)):
            if part is not None:
                # load_state_dict replaces both.
                part.param_groups = [group for group in self.param_groups if group[MUON] is mine]
                part.state = self.state
                part.step()
