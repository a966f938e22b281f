"""The base that KL holds the model to: the same modules, with what is trained taken out of them for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.model.quant import evaluating

REWRITES = ("pissa", "olora", "loftq", "corda")
"""Initialisations of PEFT that move a part of the base's weights into the adapter: without it, it is not the base."""


@dataclass(frozen=True)
class Reference:
    """A model and how to make its base of it.

    Attributes:
        model: The trained model.
        copies: Its trained parameters, and what they held when this was made; empty where switching the adapter off
            gives the base.
    """

    model: nn.Module
    copies: tuple[tuple[nn.Parameter, Tensor], ...]

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model computes what the base computes, in evaluation mode and without gradients."""
        # Autocast remembers converted weights, by the parameter and not by what it holds.
        torch.clear_autocast_cache()
        try:
            with _exchanged(self.copies) if self.copies else without_adapter(self.model), evaluating(self.model):
                yield
        finally:
            torch.clear_autocast_cache()

    def sentence(self) -> str:
        """What it costs, for the log."""
        if not self.copies:
            return "the base is the model without its adapter: no second model, a second forward pass"
        size = sum(copy.numel() * copy.element_size() for _, copy in self.copies) / 2**30
        count = sum(copy.numel() for _, copy in self.copies)
        return f"a frozen copy of the {count:,} trained parameters is kept ({size:.2f} GiB); a second forward pass"


def reference(model: nn.Module) -> Reference:
    """The base of a model as it is now; call it before anything is trained or restored."""
    if isinstance(model, PreTrainedModel) or rewritten(model):
        trained = [value for value in model.parameters() if value.requires_grad]
        assert trained, "nothing is trained"
        return Reference(model, tuple((value, value.detach().clone()) for value in trained))
    return Reference(model, ())


def rewritten(model: nn.Module) -> bool:
    """Whether an adapter's initialisation changed the base's own weights."""
    from peft import LoraConfig, PeftModel

    assert isinstance(model, PeftModel)
    inits = [config.init_lora_weights for config in model.peft_config.values() if isinstance(config, LoraConfig)]
    return any(isinstance(init, str) and init.startswith(REWRITES) for init in inits)


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """The adapter switched off; afterwards the same parameters are trained as before (PEFT would unfreeze all)."""
    from peft import PeftModel

    assert isinstance(model, PeftModel)
    before = [(value, value.requires_grad) for value in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for value, trained in before:
            value.requires_grad_(trained)


@contextmanager
def _exchanged(copies: tuple[tuple[nn.Parameter, Tensor], ...]) -> Iterator[None]:
    """The parameters hold their copies; no graph may be recorded meanwhile."""
    current = [value.data for value, _ in copies]
    for value, copy in copies:
        value.data = copy
    try:
        yield
    finally:
        for (value, _), own in zip(copies, current, strict=True):
            value.data = own
