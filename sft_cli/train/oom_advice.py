"""What to type when memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import torch

from sft_cli.config.schema.adapter import WHOLE, AdapterKind, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.errors import SftError
from sft_cli.train.monitoring.step_rows import StepRow, named

ON_A_CPU = "DefaultCPUAllocator"
"""Stands in torch's message where main memory cannot be had; that error has no class of its own."""


class Work(Enum):
    """What needs memory."""

    loading = "loading the model"
    training = "training"
    evaluation = "evaluation"


@contextmanager
def told(config: Config, work: Work, where: str, rows: Callable[[], Sequence[StepRow]] | None = None) -> Iterator[None]:
    """Memory that runs out within becomes a sentence.

    Args:
        config: The run's settings, which the advice starts from.
        work: What is done within.
        where: At which step, or of which model.
        rows: The rows that are computed, the longest first; asked only where memory runs out.

    Raises:
        SftError: Memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or ON_A_CPU in str(error)):
            raise
        problem = f"memory ran out in {work.value}"
        if rows is not None:
            budget = config.speed.tokens_per_micro_batch
            problem += f", at most {budget:,} tokens at once; the longest rows of the step: {named(rows())}"
        raise SftError(where=where, problem=problem, fix=advice(config, work)) from error


def advice(config: Config, work: Work) -> str:
    """What needs less memory than this config, the cheapest first."""
    speed, found = config.speed, list[str]()
    if work is Work.training:
        explicit = speed.gradient_checkpointing in (Checkpointing.none, Checkpointing.selective, Checkpointing.layers)
        if explicit and config.adapter.kind is not AdapterKind.prefix:
            found.append("speed.gradient_checkpointing=auto")
        found.append(_fewer_tokens(config))
    if work is Work.evaluation:
        found.append(f"eval.batch_size={max(1, config.eval.batch_size // 2)}")
        found.append(_fewer_tokens(config))
    if config.adapter.kind in WHOLE:
        found.append("adapter=lora")
    elif config.quant.kind is QuantKind.none:
        found.append("quant=nf4")
    found.append("a smaller model")
    if len(found) == 1:
        found.append("a larger device")
    return f"{', '.join(found[:-1])}, or {found[-1]}"


def _fewer_tokens(config: Config) -> str:
    """Fewer tokens at once; where only the longest row is computed at once, shorter rows, which are another run."""
    tokens, longest = config.speed.tokens_per_micro_batch, config.trainer.max_length
    if tokens > longest:
        return f"speed.tokens_per_micro_batch={max(longest, tokens // 2)}"
    return f"a new run with trainer.max_length={max(8, longest // 2)}"
