"""The computation of logits from final hidden states in each model family: projection and rescaling."""

import inspect
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.quant import causal_lm


class LogitsPath(str, Enum):
    """The part of the model that computes the logits.

    ``chunks`` applies the output embedding to chunks of hidden states; ``positions`` lets the model compute the logits
    of the trained positions (for families with unknown rescaling); ``row`` lets it compute all T of them; ``whole``
    calls PEFT's forward, which prepends virtual tokens to the row.
    """

    chunks = "chunks"
    positions = "positions"
    row = "row"
    whole = "whole"


@dataclass(frozen=True, slots=True)
class LogitsRescaling:
    """The rescaling of a family's logits, in the order of the attributes and in the dtype of the logits.

    Attributes:
        factor: The logits are multiplied by it (Cohere, Falcon-H1).
        divisor: They are divided by it (Granite).
        cap: They become ``cap * tanh(logits / cap)`` (Gemma 2).
    """

    factor: float = 1.0
    divisor: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the rescaled logits; the same tensor if nothing changes."""
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.divisor != 1.0:
            logits = logits / self.divisor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    @property
    def slope(self) -> float:
        """The derivative of the rescaled logits; it is constant only without a cap."""
        assert self.cap is None
        return self.factor / self.divisor


FACTOR_KEYS = ("logit_scale", "lm_head_multiplier")
DIVISOR_KEY = "logits_scaling"
CAP_KEY = "final_logit_softcapping"


def configured_rescaling(lm: PreTrainedModel) -> LogitsRescaling:
    """Return the rescaling that the model's configuration states; ``find_rescaling`` checks whether it is applied."""
    config = lm.config.get_text_config().to_dict()
    factor = 1.0
    for name in FACTOR_KEYS:
        factor *= config.get(name) or 1.0
    return LogitsRescaling(factor, config.get(DIVISOR_KEY) or 1.0, config.get(CAP_KEY))


def find_rescaling(model: nn.Module) -> LogitsRescaling | None:
    """Return the rescaling between the output embedding's products and the model's logits; None if it is unknown.

    It is found by comparing the logits of eight random tokens, which must be equal bit for bit: a cap of 30 changes
    small logits by one part in a million, so a tolerance would miss it.
    """
    lm = causal_lm(model)
    head, decoder = lm.get_output_embeddings(), lm.base_model
    if head is None or decoder is lm:
        return None
    ids = torch.randint(lm.config.get_text_config().vocab_size, (1, 8), generator=torch.Generator().manual_seed(0))
    ids = ids.to(lm.device)
    with generation_mode(model):
        model_logits = lm(input_ids=ids, use_cache=False).logits
        states = decoder(input_ids=ids, use_cache=False).last_hidden_state
        if states.shape[-1] != head.weight.shape[-1]:  # a layer between them changes the width (ELECTRA)
            return None
        products = head(states)
        for rescaling in dict.fromkeys((configured_rescaling(lm), LogitsRescaling())):
            computed = rescaling(products)
            if model_logits.shape == computed.shape and torch.equal(model_logits.float(), computed.float()):
                return rescaling
    return None


def fallback_path(model: nn.Module) -> LogitsPath:
    """Return the path on which the model computes the logits: of selected positions if supported, else of all."""
    accepts = "logits_to_keep" in inspect.signature(causal_lm(model).forward).parameters
    return LogitsPath.positions if accepts else LogitsPath.row


def are_vectors_in_sequence(model: nn.Module) -> bool:
    """Return whether PEFT prepends virtual tokens to the input (prompt tuning), so that the first logits are theirs."""
    from peft import PeftModel, PeftType

    assert isinstance(model, PeftModel)
    return model.active_peft_config.peft_type not in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
