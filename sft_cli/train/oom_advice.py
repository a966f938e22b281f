"""Errors with advice when memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from sft_cli.config.schema.adapter import WHOLE, AdapterKind, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.errors import SftError
from sft_cli.model.out_of_memory import is_out_of_memory
from sft_cli.train.monitoring.step_rows import StepRow, describe_rows


class OomPhase(Enum):
    """The phase of a run in which memory ran out."""

    loading = "loading the model"
    training = "training"
    evaluation = "evaluation"


@contextmanager
def translate_oom(
    config: Config, phase: OomPhase, where: str, rows: Callable[[], Sequence[StepRow]] | None = None
) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into an SftError with advice.

    Args:
        config: The settings of the run, on which the advice is based.
        phase: The phase of the run.
        where: The step, or the model.
        rows: Returns the rows of the step, the longest first; called only when memory runs out.

    Raises:
        SftError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        problem = f"out of memory in {phase.value}"
        if rows is not None:
            budget = resolved(config.speed.tokens_per_micro_batch)
            problem += f" with {budget:,} tokens per micro-batch; the longest rows of the step: {describe_rows(rows())}"
        raise SftError(where=where, problem=problem, fix=oom_advice(config, phase)) from error


def oom_advice(config: Config, phase: OomPhase) -> str:
    """Return settings that need less memory than the config, the cheapest first."""
    speed, settings = config.speed, list[str]()
    if phase is OomPhase.training:
        explicit = speed.gradient_checkpointing in (Checkpointing.none, Checkpointing.selective, Checkpointing.layers)
        if explicit and config.adapter.kind is not AdapterKind.prefix:
            settings.append("speed.gradient_checkpointing=auto")
        settings.append(_fewer_tokens(config))
    if phase is OomPhase.evaluation:
        settings.append(f"eval.batch_size={max(1, config.eval.batch_size // 2)}")
        settings.append(_fewer_tokens(config))
    if config.adapter.kind in WHOLE:
        settings.append("adapter=lora")
    elif config.quant.kind is QuantKind.none:
        settings.append("quant=nf4")
    settings.append("a smaller model")
    if len(settings) == 1:
        settings.append("a larger device")
    return f"{', '.join(settings[:-1])}, or {settings[-1]}"


def _fewer_tokens(config: Config) -> str:
    """Return advice for fewer tokens: a smaller micro-batch, or shorter rows if it cannot be smaller than a row."""
    tokens, longest = resolved(config.speed.tokens_per_micro_batch), config.trainer.max_length
    if tokens > longest:
        return f"speed.tokens_per_micro_batch={max(longest, tokens // 2)}"
    return f"a new run with trainer.max_length={max(8, longest // 2)}"
