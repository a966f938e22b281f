"""Estimate the time and cost of a run from a stated or measured speed, else from arithmetic."""

import json
import shlex
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
"""Share of a GPU's stated speed that training is assumed to reach; an assumption, not a measurement."""


FASTEST = 400_000
"""Tokens per second of one GPU above which no estimate is printed: no GPU is known to train faster."""


@dataclass(frozen=True, slots=True)
class RunSize:
    """Optimizer steps and tokens of a run.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens of all its examples, counted once per pass.
    """

    steps: int
    tokens: int


@dataclass(frozen=True, slots=True)
class FlopModel:
    """Sizes that determine the operations per token.

    Attributes:
        block: Parameters used per token outside of the head, counting active experts only.
        head: Parameters of the head.
        layers: Decoder layers.
        width: Heads times their width.
        whole: Whether all weights are trained.
        recomputed: Share of the layers that the backward pass recomputes.
    """

    block: int
    head: int
    layers: int
    width: int
    whole: bool
    recomputed: float

    def per_token(self, length: float, trained: float) -> float:
        """Return the operations per token of the forward and the backward pass.

        A matrix costs 2 operations per parameter forward, 2 for the gradient of its input and 2 more for its own
        gradient if it is trained; the head is computed at trained positions only. A query attends to half of its
        example's ``length`` tokens on average: 4 x width operations each, and 2.5 times that backward.
        """
        attention = 4 * self.width * self.layers * length / 2
        forward = 2 * self.block + attention
        backward = (4 if self.whole else 2) * self.block + 2.5 * attention
        head = (6 if self.whole else 4) * self.head * trained
        return forward * (1 + self.recomputed) + backward + head


def run_size(config: Config, sample: DataSample) -> RunSize:
    """Return the steps and tokens of the run, estimated where the rows are a sample."""
    trainer = config.trainer
    size = resolved(trainer.examples_per_step)
    per_epoch = -(-sample.examples // size)
    steps = trainer.max_steps or per_epoch * resolved(trainer.epochs)
    passes, remaining_steps = divmod(steps, per_epoch)
    examples = passes * sample.examples + min(remaining_steps * size, sample.examples)
    return RunSize(steps, round(examples * sample.tokens_per_example))


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """The speed of an earlier run.

    Attributes:
        tokens_per_second: Median of its steps.
        steps: Number of steps.
        device: ``cpu``, or the driver's name of the GPU.
    """

    tokens_per_second: float
    steps: int
    device: str

    def on(self, card: Gpu | None) -> bool:
        """Return whether the run used this kind of GPU; None means a CPU."""
        if card is None or self.device == "cpu":
            return card is None and self.device == "cpu"
        own = gpu_from_driver_name(self.device)
        return own is not None and own.tflops == card.tflops


def measured_speed(path: str) -> MeasuredSpeed:
    """Return the speed of an earlier run's steps, without the first.

    Raises:
        SftError: The run has no finished steps.
    """
    run = open_run(path, "sft check --like")
    file = run.metrics
    speeds = _speeds(file) if file.is_file() else []
    if not speeds:
        raise SftError(
            where=f"--like {path}",
            problem="the run has no finished step",
            fix=f"train it first: sft train --resume {shlex.quote(path)}; or remove --like",
        )
    device = run.read_json(run.environment)["device"] if run.environment.is_file() else "cpu"
    return MeasuredSpeed(statistics.median(speeds[1:] or speeds), len(speeds), device)


def _speeds(file: Path) -> list[float]:
    """Return the tokens per second of each complete step."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # incomplete line after a crash
        if "tokens_per_second" in values:
            found.append(float(values["tokens_per_second"]))
    return found


def cost_check(
    options: CheckOptions, sample: DataSample, size: RunSize, cards: int, card: Gpu | None, operations: float
) -> CheckResult:
    """Return the check of time and cost of the run.

    Args:
        options: Options with a speed, a price, or an earlier run.
        sample: The sampled rows.
        size: Steps and tokens of the run.
        cards: Number of GPUs, or of processes.
        card: The named or local GPU; None for a CPU.
        operations: Operations per token.
    """
    about = "" if sample.whole else "about "
    what = f"{about}{counted(size.steps, 'step')}, {about}{counted(size.tokens, 'token')}"
    speed = _speed(options, cards, card, operations)
    if speed.tokens_per_second is None:
        note = "" if options.price is None else "; without it no cost can be computed"
        return warn("time", f"{what}; {speed.source}{note}", speed.fix)
    hours = size.tokens / speed.tokens_per_second / 3600
    text = f"{what}: {duration(hours * 3600)} at {speed.tokens_per_second:,.0f} tokens/s ({speed.source})"
    if options.price is None:
        return ok("time", text, "--price N (of one GPU hour) for the cost")
    number = counted(cards, "GPU") if card is not None else counted(cards, "process", "processes")
    cost = f"cost {hours * cards * options.price:,.2f}, where one GPU hour costs {options.price:g} ({number})"
    return ok("time", text, more=[cost])


@dataclass(frozen=True, slots=True)
class _Speed:
    """Tokens per second of the whole job and their source; None, with the reason, if the speed is unknown."""

    tokens_per_second: float | None
    source: str
    fix: str = "--tokens-per-second N, --like RUN, or --gpu h100 (a named card)"


def _speed(options: CheckOptions, cards: int, card: Gpu | None, operations: float) -> _Speed:
    """Return the stated speed, the speed of an earlier run on the same device, or an estimate."""
    if options.tokens_per_second is not None:
        return _Speed(options.tokens_per_second, "as stated")
    if options.like is not None:
        earlier = measured_speed(options.like)
        if earlier.on(card):
            return _Speed(earlier.tokens_per_second, f"median of {counted(earlier.steps, 'step')} of {options.like}")
        this = "a CPU" if card is None else card.name
        why = f"{options.like} was trained on {earlier.device}, not on {this}: its speed cannot be used for this run"
        return _Speed(None, why, f"--like RUN of a run on {this}, or --tokens-per-second N")
    if card is None or card.tflops is None:
        name = "" if card is None else f" of {card.name}"
        return _Speed(None, f"the speed{name} is not known")
    speed = cards * card.tflops * 1e12 * USE / operations
    if speed > cards * FASTEST:
        why = (
            f"the speed is not known: at {operations / 1e6:,.3g} MFLOP a token the model is too small for an estimate,"
            " since step overhead takes longer than the arithmetic"
        )
        return _Speed(None, why, f"--tokens-per-second N, or --like RUN of a run on {card.name}")
    source = (
        f"an ESTIMATE, nothing was measured: {operations / 1e9:.3g} GFLOP a token at an assumed {USE:.0%} of"
        f" {card.tflops:g} TFLOP/s ({card.name}'s data sheet) x {cards}"
    )
    return _Speed(speed, source)
