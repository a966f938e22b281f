"""The optimizer of a run.

Not here: GaLore (galore-torch has had one release, in 2024) and APOLLO (apollo-torch is licensed for non-commercial
use only); 8-bit AdamW and Adafactor save the same memory.
"""

import torch
from torch import nn

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.fields import picked
from sft_cli.config.schema.trainer import Average, OptimizerName, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.train.optimizers.own_optimizers import Lion, Muon
from sft_cli.train.optimizers.param_groups import MUON, parameter_groups

STATE_BYTES = {
    OptimizerName.adamw: 8,
    OptimizerName.adamw_8bit: 2,
    OptimizerName.paged_adamw_8bit: 2,
    OptimizerName.adafactor: 0,
    OptimizerName.muon: 4,
    OptimizerName.lion: 4,
}
"""Bytes of state for each trained float32 parameter; Adafactor keeps one number a row and a column of each matrix."""


def make_optimizer(model: nn.Module, trainer: TrainerConfig, adapter: AdapterConfig) -> torch.optim.Optimizer:
    """The optimizer over the trained parameters; see ``groups.parameter_groups`` for rates and decay.

    AdamW is torch's fused one on CUDA and on CPU. Adafactor is that of transformers with ``lr`` as it is: torch's
    scales the rate by the size of the weights, and LoRA's B begins at zero.

    Raises:
        SftError: ``trainer.lr_factors`` names what is not trained, or Muon would find no matrix.
    """
    groups = parameter_groups(model, trainer, adapter)
    lr, betas = picked(trainer.lr), trainer.betas
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
            if not any(group[MUON] for group in groups):
                raise SftError(
                    where="trainer.optimizer=muon",
                    problem="Muon updates matrices inside the network, and none of them is trained",
                    fix="trainer.optimizer=adamw, or train layers (adapter.train, adapter.freeze)",
                )
            return Muon(groups, lr=lr, betas=betas)


def state_bytes(trainer: TrainerConfig) -> int:
    """Bytes for each trained float32 parameter that optimizer and averaging take, at their peak.

    An average costs its own weights, and the raw ones while it stands in for them; a mean of the last k steps also the
    weights of those.
    """
    averaged = {Average.none: 0, Average.ema: 8, Average.last: 4 * trainer.average_last + 4}
    return STATE_BYTES[trainer.optimizer] + averaged[trainer.average]
