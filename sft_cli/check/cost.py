"""How long a run takes and what it costs: from a speed that was said or measured, else from arithmetic."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from sft_cli.check.asked import Asked
from sft_cli.check.cards import Card
from sft_cli.check.data import Sample
from sft_cli.check.lines import Line, ok, warn
from sft_cli.config.fields import picked
from sft_cli.config.rundir import open_run
from sft_cli.config.schema import Config
from sft_cli.errors import SftError

USE = 0.35
"""Share of a card's stated speed that training is assumed to reach; a guess, not measured here on any GPU."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run computes.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens of all its examples, each time they are seen.
    """

    steps: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What decides the operations of a token.

    Attributes:
        block: Parameters that multiply each token, outside of the head: of experts, the chosen ones'.
        head: Parameters of the head.
        layers: Decoder layers.
        width: Heads times their width.
        whole: All weights are trained.
        recomputed: Share of the layers that the backward pass computes again.
    """

    block: int
    head: int
    layers: int
    width: int
    whole: bool
    recomputed: float

    def per_token(self, length: float, trained: float) -> float:
        """Operations of a token of the forward and the backward pass.

        A matrix costs 2 a parameter forward, 2 for the gradient of its input and 2 more for its own where it is
        trained; the head only counts at trained positions. A query sees half of its example's ``length`` tokens: 4 x
        width each, 2.5 times that backward.
        """
        attention = 4 * self.width * self.layers * length / 2
        forward = 2 * self.block + attention
        backward = (4 if self.whole else 2) * self.block + 2.5 * attention
        head = (6 if self.whole else 4) * self.head * trained
        return forward * (1 + self.recomputed) + backward + head


def work(config: Config, sample: Sample) -> Work:
    """Steps and tokens of the run, estimated where the rows are a sample."""
    trainer = config.trainer
    size = picked(trainer.examples_per_step)
    per_epoch = -(-sample.examples // size)
    steps = trainer.max_steps or per_epoch * picked(trainer.epochs)
    passes, rest = divmod(steps, per_epoch)
    examples = passes * sample.examples + min(rest * size, sample.examples)
    return Work(steps, round(examples * sample.tokens_per_example))


def measured(path: str) -> tuple[float, int]:
    """Median tokens per second of an earlier run's steps, and the number of steps.

    Raises:
        SftError: The run has no steps to learn from.
    """
    file = open_run(path).metrics
    speeds = _speeds(file) if file.is_file() else []
    if not speeds:
        raise SftError(
            where=f"like={path}", problem="the run has no finished step", fix="name a run with steps in metrics.jsonl"
        )
    return statistics.median(speeds[1:] or speeds), len(speeds)


def _speeds(file: Path) -> list[float]:
    """Tokens per second of each step that is recorded whole."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # torn by a crash
        if "tokens_per_second" in values:
            found.append(float(values["tokens_per_second"]))
    return found


def cost_line(asked: Asked, sample: Sample, done: Work, cards: int, card: Card | None, operations: float) -> Line:
    """Time and cost of the run.

    Args:
        asked: Speed, price, or the run to learn from.
        sample: The rows.
        done: What is computed.
        cards: GPUs, or processes.
        card: The one that is named or here; None: none of the table.
        operations: Of one token.
    """
    about = "" if sample.whole else "about "
    what = f"{about}{done.steps:,} steps, {about}{done.tokens:,} tokens"
    if asked.tokens_per_second is not None:
        speed, source = asked.tokens_per_second, "as stated"
    elif asked.like is not None:
        speed, steps = measured(asked.like)
        source = f"median of {steps} steps of {asked.like}"
    elif card is not None and card.tflops is not None:
        speed = cards * card.tflops * 1e12 * USE / operations
        source = (
            f"an ESTIMATE, nothing was measured: {operations / 1e9:.3g} GFLOP a token at an assumed {USE:.0%} of"
            f" {card.tflops:g} TFLOP/s ({card.name}'s data sheet) x {cards}"
        )
    else:
        return warn(
            "time", f"{what}; the speed is not known", "tokens_per_second=N, like=RUN, or gpu=h100 (a named card)"
        )
    hours = done.tokens / speed / 3600
    text = f"{what}: {_span(hours)} at {speed:,.0f} tokens/s ({source})"
    if asked.price is not None:
        return ok("time", f"{text}; {hours * cards * asked.price:,.2f} at {asked.price:g} per GPU hour x {cards}")
    return ok("time", text, "price=N (per GPU hour) for the cost")


def _span(hours: float) -> str:
    """Seconds, minutes or hours, whatever reads best."""
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 3 else f"{hours:.1f} h"
