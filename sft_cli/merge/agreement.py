"""Compare the logits of two models at the trained positions of some rows."""

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
from sft_cli.model.quant import causal_lm, evaluation_mode

MAX_ROWS = 16
"""Largest number of rows that are compared."""
MAX_LOGITS = 2**28
"""Largest number of logits kept per model (half a GiB in bfloat16); large vocabularies have fewer positions."""
MAX_KL = {torch.float32: 1e-4, torch.bfloat16: 5e-3, torch.float16: 5e-3}
"""Largest mean KL divergence of a merge, in nats, by the dtype of the merged weights.

Measured on stories260k with random adapters that change the base by 0.003 to 0.5 nats: 2e-12 to 4e-12 in float32, 1e-5
to 2e-5 in float16, 7e-4 to 1.4e-3 in bfloat16. Nearly all of the latter is due to the arithmetic of two half-precision
forward passes; the rounding of the merged weights alone gives 3e-5 to 8e-5. A merge into NF4 gives 0.02 and more."""


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """A row for comparing models: token ids, and labels, which are the same ids if trained, otherwise -100."""

    where: str
    input_ids: list[int]
    labels: list[int]

    def compared_positions(self, max_positions: int) -> list[int]:
        """Return the positions whose logits predict a trained token; at most ``max_positions``, evenly spread."""
        entries = [at for at, label in enumerate(self.labels[1:]) if label != -100]
        return (
            entries
            if len(entries) <= max_positions
            else [entries[i * len(entries) // max_positions] for i in range(max_positions)]
        )


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of two models.

    Attributes:
        kl: Mean over the positions of KL(first ‖ second), in nats; NaN if either model has a NaN logit.
        argmax: Fraction of the positions at which both have the same most likely token.
        positions: Number of compared positions.
        rows: Number of compared rows.
    """

    kl: float
    argmax: float
    positions: int
    rows: int


def read_comparison_rows(file: Path) -> list[ComparisonRow]:
    """Read the first ``MAX_ROWS`` rows of a run's probes.json that have a trained token.

    Raises:
        SftError: There is no such row.
    """
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    all_rows = [ComparisonRow(**entry) for entry in entries]
    rows = [row for row in all_rows if row.compared_positions(1)][:MAX_ROWS]
    if not rows:
        raise SftError(
            where=str(file),
            problem="there is no row with a trained token for comparing the models",
            fix="train the run again: sft train writes such rows",
        )
    return rows


def trained_logits(model: nn.Module, probes: Sequence[ComparisonRow]) -> list[Tensor]:
    """Return the logits ``(positions, vocabulary)`` of each row, in the dtype of the model, on the CPU.

    Args:
        model: A causal LM, with or without an adapter; it is not changed.
        probes: The rows.
    """
    lm = causal_lm(model)
    max_positions = max(1, MAX_LOGITS // (len(probes) * lm.config.get_text_config().vocab_size))
    selects = "logits_to_keep" in inspect.signature(lm.forward).parameters
    all_logits = []
    with evaluation_mode(model):
        for probe in probes:
            at = torch.tensor(probe.compared_positions(max_positions), device=lm.device)
            row = {"input_ids": torch.tensor([probe.input_ids], device=lm.device), "use_cache": False}
            logits = lm(**row, logits_to_keep=at).logits[0] if selects else lm(**row).logits[0, at]
            all_logits.append(logits.cpu())
    return all_logits


def compare_logits(first: Sequence[Tensor], second: Sequence[Tensor]) -> Agreement:
    """Return the agreement of the logits of two models on the same rows."""
    divergence, same_argmax, positions = 0.0, 0, 0
    for left, right in zip(first, second, strict=True):
        p, q = log_softmax(left.double(), dim=-1), log_softmax(right.double(), dim=-1)
        divergence += kl_div(q, p, reduction="sum", log_target=True).item()
        same_argmax += int((left.argmax(dim=-1) == right.argmax(dim=-1)).sum())
        positions += len(left)
    return Agreement(divergence / positions, same_argmax / positions, positions, len(first))
