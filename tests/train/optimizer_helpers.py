"""A toy model, its optimizer, and training steps whose gradients depend on the weights, so that differences grow."""

import torch
from torch import nn

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.train.checkpoints.checkpoint import TrainState
from sft_cli.train.optimizers.lr_schedule import make_lr_schedule, planned_length
from sft_cli.train.optimizers.optimizers import make_optimizer
from sft_cli.train.optimizers.weight_average import make_weight_average

STEPS = 6


class Toy(nn.Module):
    """An embedding, two layers (one large enough for 8-bit state), a norm, and a bias."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(7, 64)
        self.up_proj = nn.Linear(64, 80)
        self.norm = nn.LayerNorm(80)
        self.down_proj = nn.Linear(80, 64, bias=False)
        self.to(dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.norm(self.up_proj(self.embed_tokens(ids)).tanh())).square().mean()


def make_state(trainer: TrainerConfig, dtype: torch.dtype = torch.float32) -> TrainState:
    """Return the state of a new run."""
    torch.manual_seed(0)
    model = Toy(dtype)
    optimizer = make_optimizer(model, trainer, AdapterConfig())
    return TrainState(
        model,
        optimizer,
        make_lr_schedule(optimizer, trainer, planned_length(trainer, STEPS)),
        None,
        make_weight_average(trainer),
    )


def train(state: TrainState, first: int, last: int) -> None:
    """Run steps ``first`` to ``last - 1``."""
    for step in range(first, last):
        state.model(torch.tensor([step % 7, (3 * step + 1) % 7])).backward()
        state.optimizer.step()
        state.lr_schedule.step()
        state.optimizer.zero_grad()
        if state.average is not None:
            state.average.update(state.model)
