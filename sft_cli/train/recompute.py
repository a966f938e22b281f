"""Increase of recomputation (gradient checkpointing) when memory runs out."""

from dataclasses import dataclass

import torch
from torch import nn

from sft_cli.console import say
from sft_cli.model.memory.checkpointing import CheckpointingPlan, apply_checkpointing, next_checkpointing_level
from sft_cli.model.memory.layer_memory import decoder_layers


@dataclass
class RecomputeOnOom:
    """The current gradient checkpointing of a model, and whether it may be increased.

    Attributes:
        model: The model whose layers are checkpointed.
        recompute: The current level.
        allowed: Whether it may be increased. It may not if the config sets it, nor in prefix tuning, whose keys and
            values no longer exist when a layer runs again.
    """

    model: nn.Module
    recompute: CheckpointingPlan
    allowed: bool = True

    def next_level(self, device: torch.device) -> CheckpointingPlan | None:
        """Return the next higher level of recomputation, or None."""
        layers = len(decoder_layers(self.model))
        return next_checkpointing_level(self.recompute, layers, device) if layers and self.allowed else None

    def increase(self, device: torch.device) -> None:
        """Recompute more from now on."""
        plan = self.next_level(device)
        assert plan is not None, "the same settings give every process the same next level"
        self.recompute = plan
        apply_checkpointing(self.model, plan)
        say(f"memory    {plan.describe()}")
