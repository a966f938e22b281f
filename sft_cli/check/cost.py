"""How long a run takes and what it costs: from a speed that was said or measured, else from arithmetic."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from sft_cli.check.data_check import DataSample
from sft_cli.check.gpus import Gpu, gpu_from_driver_name
from sft_cli.check.options import CheckOptions
from sft_cli.check.results import CheckResult, ok, warn
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.console import counted
from sft_cli.errors import SftError
from sft_cli.run_dir import open_run
from sft_cli.utils.text import duration

USE = 0.35
"""Share of a card's stated speed that training is assumed to reach; a guess, not measured here on any GPU."""


FASTEST = 400_000
"""Tokens a second of one card beyond which the estimate is not printed: no card was seen to train faster."""


@dataclass(frozen=True, slots=True)
class RunSize:
    """What a run computes.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens of all its examples, each time they are seen.
    """

    steps: int
    tokens: int


@dataclass(frozen=True, slots=True)
class FlopModel:
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


def run_size(config: Config, sample: DataSample) -> RunSize:
    """Steps and tokens of the run, estimated where the rows are a sample."""
    trainer = config.trainer
    size = resolved(trainer.examples_per_step)
    per_epoch = -(-sample.examples // size)
    steps = trainer.max_steps or per_epoch * resolved(trainer.epochs)
    passes, rest = divmod(steps, per_epoch)
    examples = passes * sample.examples + min(rest * size, sample.examples)
    return RunSize(steps, round(examples * sample.tokens_per_example))


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """The speed of an earlier run.

    Attributes:
        tokens_per_second: Median of its steps.
        steps: How many there are.
        device: What it computed on: ``cpu``, or the name that the driver has for the card.
    """

    tokens_per_second: float
    steps: int
    device: str

    def on(self, card: Gpu | None) -> bool:
        """Whether it computed on such a card; None: on a CPU."""
        if card is None or self.device == "cpu":
            return card is None and self.device == "cpu"
        own = gpu_from_driver_name(self.device)
        return own is not None and own.tflops == card.tflops


def measured_speed(path: str) -> MeasuredSpeed:
    """The speed of an earlier run's steps, the first one left out.

    Raises:
        SftError: The run has no steps to learn from.
    """
    run = open_run(path, "sft check --like")
    file = run.metrics
    speeds = _speeds(file) if file.is_file() else []
    if not speeds:
        raise SftError(
            where=f"like={path}", problem="the run has no finished step", fix="name a run with steps in metrics.jsonl"
        )
    device = run.read_json(run.environment)["device"] if run.environment.is_file() else "cpu"
    return MeasuredSpeed(statistics.median(speeds[1:] or speeds), len(speeds), device)


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


def cost_check(
    options: CheckOptions, sample: DataSample, done: RunSize, cards: int, card: Gpu | None, operations: float
) -> CheckResult:
    """Time and cost of the run.

    Args:
        options: Speed, price, or the run to learn from.
        sample: The rows.
        done: What is computed.
        cards: GPUs, or processes.
        card: The one that is named or here; None: a CPU.
        operations: Of one token.
    """
    about = "" if sample.whole else "about "
    what = f"{about}{counted(done.steps, 'step')}, {about}{counted(done.tokens, 'token')}"
    found = _speed(options, cards, card, operations)
    if found.tokens_per_second is None:
        lacking = "" if options.price is None else "; without it there is no cost"
        return warn("time", f"{what}; {found.source}{lacking}", found.fix)
    hours = done.tokens / found.tokens_per_second / 3600
    text = f"{what}: {duration(hours * 3600)} at {found.tokens_per_second:,.0f} tokens/s ({found.source})"
    if options.price is None:
        return ok("time", text, "--price N (of one GPU hour) for the cost")
    number = counted(cards, "GPU") if card is not None else counted(cards, "process", "processes")
    cost = f"cost {hours * cards * options.price:,.2f}, where one GPU hour costs {options.price:g} ({number})"
    return ok("time", text, more=[cost])


@dataclass(frozen=True, slots=True)
class _Speed:
    """Tokens a second of the whole job, and where the figure is from; None, and why it is not known."""

    tokens_per_second: float | None
    source: str
    fix: str = "--tokens-per-second N, --like RUN, or --gpu h100 (a named card)"


def _speed(options: CheckOptions, cards: int, card: Gpu | None, operations: float) -> _Speed:
    """The speed that was said, that was measured on the same device, or that arithmetic gives."""
    if options.tokens_per_second is not None:
        return _Speed(options.tokens_per_second, "as stated")
    if options.like is not None:
        earlier = measured_speed(options.like)
        if earlier.on(card):
            return _Speed(earlier.tokens_per_second, f"median of {counted(earlier.steps, 'step')} of {options.like}")
        this = "a CPU" if card is None else card.name
        why = f"{options.like} was trained on {earlier.device}, not on {this}: its speed says nothing about this run"
        return _Speed(None, why, f"--like RUN of a run on {this}, or --tokens-per-second N")
    if card is None or card.tflops is None:
        name = "" if card is None else f" of {card.name}"
        return _Speed(None, f"the speed{name} is not known")
    speed = cards * card.tflops * 1e12 * USE / operations
    if speed > cards * FASTEST:
        why = (
            f"the speed is not known: at {operations / 1e6:,.3g} MFLOP a token the model is too small for an estimate,"
            " since the overhead of its steps takes longer than their arithmetic"
        )
        return _Speed(None, why, f"--tokens-per-second N, or --like RUN of a run on {card.name}")
    source = (
        f"an ESTIMATE, nothing was measured: {operations / 1e9:.3g} GFLOP a token at an assumed {USE:.0%} of"
        f" {card.tflops:g} TFLOP/s ({card.name}'s data sheet) x {cards}"
    )
    return _Speed(speed, source)
