"""Do two models say the same? Their logits at the trained positions of probe rows, compared."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from sft_cli.errors import SftError
from sft_cli.model.quant import causal_lm, evaluating

PROBES = 16
"""Most rows compared."""
KEPT_LOGITS = 2**28
"""Most logits kept of one model (half a GiB in bfloat16): a large vocabulary is compared at fewer positions."""
MAX_KL = {torch.float32: 1e-4, torch.bfloat16: 5e-3, torch.float16: 5e-3}
"""Largest mean KL divergence of a merge, in nats, by the type of the merged weights.

Measured on stories260k with random adapters that move the base by 0.003 to 0.5 nats: 2e-12 to 4e-12 in float32, 1e-5 to
2e-5 in float16, 7e-4 to 1.4e-3 in bfloat16. Nearly all of the latter is the arithmetic of two half-precision forward
passes; the merged weights' rounding alone gives 3e-5 to 8e-5. A merge into NF4 gives 0.02 and more."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A row on which models are compared: ids and, where a token is trained, the same id as its label, else -100."""

    where: str
    input_ids: list[int]
    labels: list[int]

    def predicting(self, most: int) -> list[int]:
        """Positions whose logits predict a trained token; where there are more than ``most``, some, spread evenly."""
        found = [at for at, label in enumerate(self.labels[1:]) if label != -100]
        return found if len(found) <= most else [found[i * len(found) // most] for i in range(most)]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two models agree.

    Attributes:
        kl: Mean over the positions of KL(first ‖ second), in nats; NaN when either has a NaN logit.
        argmax: Share of the positions at which both hold the same token for the likeliest.
        positions: Number of positions compared.
        rows: Number of rows they are from.
    """

    kl: float
    argmax: float
    positions: int
    rows: int


def read_probes(file: Path) -> list[Probe]:
    """The first ``PROBES`` rows of a run's probes.json that have a trained token.

    Raises:
        SftError: There are none, so that no comparison is possible.
    """
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    probes = [Probe(**one) for one in found]
    kept = [probe for probe in probes if probe.predicting(1)][:PROBES]
    if not kept:
        raise SftError(
            where=str(file),
            problem="there is no row with a trained token to compare the models on",
            fix="train the run again: sft train writes them",
        )
    return kept


def trained_logits(model: nn.Module, probes: Sequence[Probe]) -> list[Tensor]:
    """For each probe the ``(positions, vocabulary)`` logits, in the model's own type, on the CPU.

    Args:
        model: A causal LM, with an adapter or without; it is left as it was.
        probes: The rows.
    """
    lm = causal_lm(model)
    most = max(1, KEPT_LOGITS // (len(probes) * lm.config.get_text_config().vocab_size))
    selects = "logits_to_keep" in inspect.signature(lm.forward).parameters
    kept = []
    with evaluating(model):
        for probe in probes:
            at = torch.tensor(probe.predicting(most), device=lm.device)
            row = {"input_ids": torch.tensor([probe.input_ids], device=lm.device), "use_cache": False}
            logits = lm(**row, logits_to_keep=at).logits[0] if selects else lm(**row).logits[0, at]
            kept.append(logits.cpu())
    return kept


def agreement(first: Sequence[Tensor], second: Sequence[Tensor]) -> Agreement:
    """How far the logits of two models on the same probes agree."""
    divergence, same, positions = 0.0, 0, 0
    for left, right in zip(first, second, strict=True):
        p, q = log_softmax(left.double(), dim=-1), log_softmax(right.double(), dim=-1)
        divergence += kl_div(q, p, reduction="sum", log_target=True).item()
        same += int((left.argmax(dim=-1) == right.argmax(dim=-1)).sum())
        positions += len(left)
    return Agreement(divergence / positions, same / positions, positions, len(first))
