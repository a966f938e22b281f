"""Sampling with a seed for each answer: what is drawn does not depend on the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: Divisor of the logits; above 0.
        top_p: Only the smallest set of tokens with at least this probability is drawn from.
    """

    temperature: float
    top_p: float = 1.0


def answer_seed(seed: int, id: str, sample: int) -> int:
    """Return the seed of one answer to an item."""
    return int.from_bytes(blake2b(f"{seed}\0{id}\0{sample}".encode(), digest_size=7).digest(), "big")


class SeededSampling(LogitsProcessor):
    """Adds Gumbel noise to the scaled logits of each row, so that the largest value is a draw of the softmax.

    Each row has a generator of its own, on the CPU, so that its tokens depend on its seed and logits alone. (Gumbel-max
    trick: Maddison, Tarlow, Minka 2014, arXiv:1411.0030, section 2.)
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the generators of these rows, in this order."""
        self._generators = [self._generators[row] for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores ``(rows, vocabulary)`` with noise."""
        scaled = scores.float() / self._sampling.temperature
        if self._sampling.top_p < 1:
            scaled = _keep_top_p(scaled, self._sampling.top_p)
        noise = torch.stack([torch.rand(scaled.shape[1], generator=one, dtype=torch.float64)
                             for one in self._generators])  # fmt: skip
        tiny = torch.finfo(torch.float64).tiny
        gumbel = -torch.log(-torch.log(noise.clamp_min(tiny)))
        return scaled + gumbel.to(device=scaled.device, dtype=torch.float32)


def _keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Return the logits, -inf outside the smallest set of tokens with at least this probability."""
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    outside = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= top_p)
    return logits.masked_fill(outside, -torch.inf)
