"""The load-balancing loss of mixture-of-experts models."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sft_cli.errors import SftError


@dataclass(frozen=True)
class LoadBalancingLoss:
    """A model's own load-balancing loss, and its factor.

    For one row it is E sum_e f_e P_e over the tokens of all layers, where f_e is the fraction of tokens that chose
    expert e and P_e the mean of its probability (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6): a product of
    two means. The mean of such products over micro-batches differs from the product for the whole step, so no scale
    makes it independent of the split into micro-batches. Each micro-batch is weighted with the sum of its target
    weights, its fraction of the step's objective: an empty one adds nothing, and the fractions of a step add up to one.
    """

    factor: float
    loss_function: Callable[..., Any]
    num_experts: int
    top_k: int

    def loss(self, router_logits: Any, weights: Tensor) -> Tensor:
        """Return factor x fraction x load-balancing loss, a float32 scalar with a graph.

        Args:
            router_logits: A tuple of ``(T, E)`` by layer.
            weights: ``(N,)`` weights of the micro-batch's targets.
        """
        balance = self.loss_function(router_logits, self.num_experts, self.top_k, None)
        assert isinstance(balance, Tensor), "the model returned no router logits"
        return self.factor * weights.sum() * balance.to(torch.float32)


def make_load_balancing_loss(lm: PreTrainedModel, factor: float | None) -> LoadBalancingLoss | None:
    """Return the load-balancing loss to add, or None.

    Args:
        lm: The model.
        factor: ``loss.router``; None means the model's own coefficient if its configuration enables the loss.

    Raises:
        SftError: A factor is set, and the model has no such loss.
    """
    loss_function = vars(sys.modules[type(lm).__module__]).get("load_balancing_loss_func")
    if loss_function is None:
        if factor:
            raise SftError(
                where="loss.router",
                problem=f"the model is a {type(lm).__name__}, which has no load-balancing loss",
                fix="remove loss.router, or model.path=DIR_OR_HUB_ID of a mixture-of-experts model",
            )
        return None
    if factor is None:
        config = lm.config.get_text_config()
        config_values = config.to_dict()
        factor = config_values.get("router_aux_loss_coef") if config_values.get("output_router_logits") else 0.0
    attributes = vars(lm)
    return (
        LoadBalancingLoss(factor, loss_function, attributes["num_experts"], attributes["num_experts_per_tok"])
        if factor
        else None
    )
