"""The size of a micro-batch where ``speed.tokens_per_micro_batch`` is auto: the largest that memory allows."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from sft_cli.config.schema.adapter import VIRTUAL
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto, resolved
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.console import gib
from sft_cli.data.prepared import PreparedData
from sft_cli.model.memory.checkpointing import MEMORY_MARGIN, CheckpointingPlan, choose_checkpointing
from sft_cli.model.memory.estimate import MemoryEstimate

ENOUGH_TOKENS = 8192
"""Tokens for which layers are recomputed to fit them in. More tokens save less than recomputation costs: restoring
4-bit weights takes a tenth of the time of 4,096 tokens, and recomputing all layers half the time of a step."""
CPU_TOKENS = 4096
"""Most tokens on a CPU, whose cores are busy with far fewer rows of a product."""
MULTIPLE = 128
"""Sizes between the smallest and the largest are multiples of it."""
DEVIATIONS = 4
"""A large step has as many tokens as the mean one, and this many standard deviations."""


@dataclass(frozen=True, slots=True)
class RowTokens:
    """What memory depends on in the rows of a run.

    Attributes:
        longest: Tokens of the longest example, including held-out ones.
        typical: Token-weighted mean length of an example; attention memory on a CPU grows with its square.
        step: Tokens that one process computes in a large step.
    """

    longest: int
    typical: int
    step: int

    @classmethod
    def of(cls, config: Config, prepared: PreparedData, processes: int) -> "RowTokens":
        """Return those of prepared rows, or of a sample of them."""
        lengths, count = prepared.train.lengths.astype(np.float64), resolved(config.trainer.examples_per_step)
        longest = prepared.longest_example
        typical = max(1, round(float((lengths**2).sum() / lengths.sum())))
        large = count * lengths.mean() + DEVIATIONS * count**0.5 * lengths.std()
        step = min(int(large), int(np.sort(lengths)[-count:].sum()))
        # A process can have one example more than its share.
        return cls(longest, typical, max(longest, step if processes == 1 else step // processes + longest))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The most tokens of a micro-batch, and the reason as a clause."""

    tokens: int
    reason: str

    def describe(self) -> str:
        """Describe the size, for the log."""
        return f"micro-batches of up to {self.tokens:,} tokens ({self.reason})"

    def resolve(self, config: Config) -> Config:
        """Return the config with this size."""
        return replace(config, speed=replace(config.speed, tokens_per_micro_batch=self.tokens))


def largest_micro_batch(config: Config, rows: RowTokens, device: torch.device) -> MicroBatch:
    """Return the size without a limit by memory: as configured, or all of a step; never less than ``max_length``."""
    size, least = config.speed.tokens_per_micro_batch, config.trainer.max_length
    if not isinstance(size, Auto):
        return MicroBatch(size, "as configured")
    if not is_packed(config):
        return MicroBatch(least, "trainer.max_length: each example has its own")
    if rows.step <= least:
        return MicroBatch(least, "trainer.max_length: a step has no more")
    step = -(-rows.step // MULTIPLE) * MULTIPLE
    if device.type == "cpu" and step > max(least, CPU_TOKENS):
        return MicroBatch(max(least, CPU_TOKENS), "the most on a CPU")
    return MicroBatch(step, "all of a step")


def choose_micro_batch(
    config: Config,
    rows: RowTokens,
    estimate: Callable[[int], MemoryEstimate],
    free: int | None,
    device: torch.device,
) -> MicroBatch:
    """Return the size of micro-batches; for auto, the largest that fits without more recomputation.

    Up to ``ENOUGH_TOKENS`` it may need any recomputation, but no offloading; a larger one must need no more than those.

    Args:
        config: The settings of the run.
        rows: The tokens of its rows.
        estimate: Returns the memory of a step, by tokens of a micro-batch.
        free: Bytes free on the device; None if unknown.
        device: Where the model computes.
    """
    largest, least = largest_micro_batch(config, rows, device), config.trainer.max_length
    if not isinstance(config.speed.tokens_per_micro_batch, Auto) or largest.tokens <= least:
        return largest
    enough = min(largest.tokens, max(least, ENOUGH_TOKENS))
    if free is None or estimate(enough).saved.unknown:
        return largest if enough == largest.tokens else MicroBatch(enough, "its memory is not known")

    def plan(tokens: int) -> tuple[CheckpointingPlan, bool]:
        """Return what is recomputed with this size, and whether it fits."""
        needed = estimate(tokens)
        found = choose_checkpointing(config.speed, needed, free, device)
        offloaded = found.mode is Checkpointing.offload and found.mode is not config.speed.gradient_checkpointing
        return found, not offloaded and needed.total(found.mode, found.layers) <= free * (1 - MEMORY_MARGIN)

    most_layers = plan(enough)[0].layers

    def is_suitable(tokens: int) -> bool:
        recompute, is_fitting = plan(tokens)
        return is_fitting and (tokens <= enough or recompute.layers <= most_layers)

    if is_suitable(largest.tokens):
        return largest
    larger = range(least + MULTIPLE, largest.tokens, MULTIPLE)
    tokens = least + MULTIPLE * bisect_left(larger, True, key=lambda size: not is_suitable(size))
    if tokens == least:
        return MicroBatch(least, "trainer.max_length: memory allows no more")
    limit = "as many as fit" if tokens < enough else "as many as fit without more recomputation"
    return MicroBatch(tokens, f"{limit}, {gib(free)} free")


def is_packed(config: Config) -> bool:
    """Return whether a row may hold several examples."""
    return config.speed.packing and config.adapter.kind not in VIRTUAL


def micro_batch_tokens(config: Config, rows: RowTokens, size: int) -> int:
    """Return the tokens of the largest micro-batch of a run whose micro-batches have at most ``size``."""
    return min(size, rows.step) if is_packed(config) else rows.longest
