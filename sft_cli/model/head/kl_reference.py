"""The base model as reference of the KL term: the same modules, with the trained weights replaced temporarily."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.model.quant import evaluation_mode

WEIGHT_CHANGING_INITS = ("pissa", "olora", "loftq", "corda")
"""PEFT's initializations that change the weights of the base: without the adapter, such a model is not the base."""


@dataclass(frozen=True)
class KLReference:
    """A model that can temporarily compute as its base.

    Attributes:
        model: The trained model.
        copies: Its trained parameters and their original values; empty if the base is the model without its adapter.
    """

    model: nn.Module
    copies: tuple[tuple[nn.Parameter, Tensor], ...]

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Let the model compute as its base inside the block, in evaluation mode and without gradients."""
        # Autocast caches converted weights by parameter, not by value.
        torch.clear_autocast_cache()
        try:
            with (
                _swapped_parameters(self.copies) if self.copies else adapter_disabled(self.model),
                evaluation_mode(self.model),
            ):
                yield
        finally:
            torch.clear_autocast_cache()

    def describe(self) -> str:
        """Describe the memory and time that it costs, for the log."""
        if not self.copies:
            return "the base is the model without its adapter: no second model, a second forward pass"
        size = sum(copy.numel() * copy.element_size() for _, copy in self.copies) / 2**30
        count = sum(copy.numel() for _, copy in self.copies)
        return f"a frozen copy of the {count:,} trained parameters is kept ({size:.2f} GiB); a second forward pass"


def make_kl_reference(model: nn.Module) -> KLReference:
    """Return a reference to the base of a model; call it before anything is trained or restored."""
    if isinstance(model, PreTrainedModel) or base_was_changed(model):
        trained = [value for value in model.parameters() if value.requires_grad]
        assert trained, "nothing is trained"
        return KLReference(model, tuple((value, value.detach().clone()) for value in trained))
    return KLReference(model, ())


def base_was_changed(model: nn.Module) -> bool:
    """Return whether the initialization of an adapter changed the weights of the base."""
    from peft import LoraConfig, PeftModel

    assert isinstance(model, PeftModel)
    inits = [config.init_lora_weights for config in model.peft_config.values() if isinstance(config, LoraConfig)]
    return any(isinstance(init, str) and init.startswith(WEIGHT_CHANGING_INITS) for init in inits)


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """Disable the adapter inside the block, and restore ``requires_grad``, which PEFT would set for all parameters."""
    from peft import PeftModel

    assert isinstance(model, PeftModel)
    flags = [(value, value.requires_grad) for value in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for value, requires_grad in flags:
            value.requires_grad_(requires_grad)


@contextmanager
def _swapped_parameters(copies: tuple[tuple[nn.Parameter, Tensor], ...]) -> Iterator[None]:
    """Replace the parameters by their copies inside the block, in which no graph may be recorded."""
    current = [value.data for value, _ in copies]
    for value, copy in copies:
        value.data = copy
    try:
        yield
    finally:
        for (value, _), original in zip(copies, current, strict=True):
            value.data = original
