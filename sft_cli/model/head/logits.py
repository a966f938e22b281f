"""From final hidden states to logits, as each family does it: the projection, and what some do to its result."""

import inspect
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.model.attention.packing import generating
from sft_cli.model.quant import causal_lm


class HeadPath(str, Enum):
    """How the logits are made.

    ``chunks`` applies the output embedding to chunks of hidden states; ``positions`` lets the model make the logits
    of the trained positions (families that do with them what we do not know); ``row`` lets it make all T of them;
    ``whole`` goes through PEFT, whose virtual tokens stand before the row.
    """

    chunks = "chunks"
    positions = "positions"
    row = "row"
    whole = "whole"


@dataclass(frozen=True, slots=True)
class Rescale:
    """What a family does to its logits, in this order and in their own type.

    Attributes:
        factor: They are multiplied with it (Cohere, Falcon-H1).
        divisor: They are divided by it (Granite).
        cap: They become ``cap * tanh(logits / cap)`` (Gemma 2).
    """

    factor: float = 1.0
    divisor: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """The rescaled logits; the given ones when there is nothing to do."""
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.divisor != 1.0:
            logits = logits / self.divisor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    @property
    def slope(self) -> float:
        """Derivative of the rescaled logits by the given ones; there is one number for it without a cap only."""
        assert self.cap is None
        return self.factor / self.divisor


FACTORS = ("logit_scale", "lm_head_multiplier")
DIVISOR = "logits_scaling"
CAP = "final_logit_softcapping"


def configured(lm: PreTrainedModel) -> Rescale:
    """What the configuration says is done to the logits; whether it is, ``rescaling`` finds out."""
    said = lm.config.get_text_config().to_dict()
    factor = 1.0
    for name in FACTORS:
        factor *= said.get(name) or 1.0
    return Rescale(factor, said.get(DIVISOR) or 1.0, said.get(CAP))


def rescaling(model: nn.Module) -> Rescale | None:
    """What turns the output embedding's products into the model's logits; None when that is not known.

    Found by comparing the logits of eight random tokens: they must be equal to the bit. A cap of 30 changes small
    logits by one part in a million: a tolerance would overlook it.
    """
    lm = causal_lm(model)
    head, decoder = lm.get_output_embeddings(), lm.base_model
    if head is None or decoder is lm:
        return None
    ids = torch.randint(lm.config.get_text_config().vocab_size, (1, 8), generator=torch.Generator().manual_seed(0))
    ids = ids.to(lm.device)
    with generating(model):
        own = lm(input_ids=ids, use_cache=False).logits
        products = head(decoder(input_ids=ids, use_cache=False).last_hidden_state)
        for found in dict.fromkeys((configured(lm), Rescale())):
            ours = found(products)
            if own.shape == ours.shape and torch.equal(own.float(), ours.float()):
                return found
    return None


def fallback_path(model: nn.Module) -> HeadPath:
    """Logits by the model itself: of some positions where it can, else of all."""
    accepts = "logits_to_keep" in inspect.signature(causal_lm(model).forward).parameters
    return HeadPath.positions if accepts else HeadPath.row


def virtual_tokens(model: nn.Module) -> int:
    """Trained vectors that PEFT puts before every row (prefix and prompt tuning); 0 for all other models."""
    if isinstance(model, PreTrainedModel):
        return 0
    from peft import PeftModel
    from peft.config import PromptLearningConfig

    assert isinstance(model, PeftModel)
    config = model.active_peft_config
    return config.num_virtual_tokens if isinstance(config, PromptLearningConfig) else 0


def in_sequence(model: nn.Module) -> bool:
    """Whether PEFT's virtual tokens are rows of the input (prompt tuning), so that the first logits are theirs."""
    from peft import PeftModel, PeftType

    assert isinstance(model, PeftModel)
    return model.active_peft_config.peft_type not in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
