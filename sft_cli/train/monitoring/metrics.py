"""Logging of a run: metrics.jsonl, trackers, and the console."""

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from sft_cli.console import gib, note, say
from sft_cli.progress import clear_progress, has_terminal
from sft_cli.train.monitoring.panel import TrainPanel
from sft_cli.train.monitoring.trackers import Trackers
from sft_cli.train.scalars import scalars
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none
from sft_cli.utils.text import duration, time_left

RECENT_STEPS = 20
"""Number of recent steps whose duration is used to estimate the remaining time."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of one optimizer step.

    Attributes:
        step: Optimizer steps done, from 1.
        epoch: Number of passes over the data done, fractional.
        loss: The objective on the step's examples before its update, in nats per trained token (or per example, see
            loss.reduction).
        terms: The terms of the objective by name, in the same units: ``nll``, plain cross-entropy (or ``dft``);
            ``smoothing``, ``z``, ``kl`` and ``router`` if they are on; ``replay``, the part of replayed rows.
        lr: Learning rate of the update.
        grad_norm: Norm of the gradient before clipping.
        examples: Number of examples of the step.
        tokens: Number of their tokens.
        computed_tokens: Number of tokens that go through the model: common prefixes count once, and tokens that no
            loss depends on do not count.
        trained_tokens: Number of tokens with loss.
        seconds: Wall time of the step.
        tokens_per_second: ``tokens / seconds``.
        memory: Peak bytes so far: allocated on CUDA, resident on CPU.
        at: Time at the end of the step, in seconds since 1970.
    """

    step: int
    epoch: float
    loss: float
    terms: dict[str, float]
    lr: float
    grad_norm: float
    examples: int
    tokens: int
    computed_tokens: int
    trained_tokens: int
    seconds: float
    tokens_per_second: float
    memory: int
    at: float


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of this process: allocated by torch on CUDA, resident on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricsLog:
    """Appends to metrics.jsonl and to the trackers, and prints the progress.

    A terminal shows a panel with the last step; other outputs and console.log get about twenty lines in all.
    """

    def __init__(self, file: Path, num_steps: int, first_step: int, trackers: Trackers) -> None:
        truncate_after(file, first_step)
        self._file = file.open("a", encoding="utf-8")
        self._num_steps = num_steps
        self._trackers = trackers
        self._panel = TrainPanel()
        self._terminal = sys.stdout.isatty() and has_terminal()
        self._began = time.perf_counter()
        self._every = max(1, num_steps // 20)
        self._last = ""
        self._seconds = deque[float](maxlen=RECENT_STEPS)

    def step(self, metrics: StepMetrics) -> None:
        """Record a step."""
        self._write(asdict(metrics))
        parts = ", ".join(f"{name} {value:.4g}" for name, value in metrics.terms.items())
        terms = f" ({parts})" if len(metrics.terms) > 1 else ""
        elapsed = duration(time.perf_counter() - self._began)
        self._seconds.append(metrics.seconds)
        # The median is robust against one slow step, such as the first or the one after an evaluation.
        remaining = time_left((self._num_steps - metrics.step) * median_low(self._seconds))
        text = (
            f"epoch {metrics.epoch:.2f}  loss {metrics.loss:.4f}{terms}  lr {metrics.lr:.2e}"
            f"  {metrics.tokens_per_second:,.0f} tokens/s"
        )
        self._last = f"step {metrics.step:>6}/{self._num_steps}  {text}"
        if metrics.step == 1 or metrics.step % self._every == 0 or metrics.step == self._num_steps:
            (note if self._terminal else say)(f"{self._last}  {elapsed}, {remaining} left")
        if self._terminal:
            self._panel.losses.append(metrics.loss)
            self._panel.draw(
                metrics.step / self._num_steps,
                f"step {metrics.step}/{self._num_steps}  {elapsed}, {remaining} left  epoch {metrics.epoch:.2f}",
                f"{metrics.loss:.4f}{terms}",
                f"{metrics.tokens_per_second:,.0f} tokens/s  lr {metrics.lr:.2e}  grad norm {metrics.grad_norm:.3g}"
                f"  {gib(metrics.memory)}",
            )

    def evaluation(self, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Record an evaluation."""
        self._write({"step": step, "epoch": epoch, "eval": True, **values})

    def retention(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the values of the retention probes, by name."""
        self._write({"step": step, "retention": values})

    def say(self, text: str) -> None:
        """Print a line."""
        say(text)

    def say_evaluation(self, text: str) -> None:
        """Print the line of an evaluation; on a terminal, the panel shows the last one until the next is there."""
        if not self._terminal:
            say(text)
            return
        note(text)
        self._print_evaluation()
        self._panel.evaluation = text

    def say_sample(self, text: str) -> None:
        """Print the line of a sample answer; on a terminal, the panel shows the last one."""
        self._panel.sample = text
        (note if self._terminal else say)(text)

    def _print_evaluation(self) -> None:
        """Print the line of the evaluation that the panel shows."""
        if self._panel.evaluation:
            say(self._panel.evaluation, noted=True)

    def close(self) -> None:
        """Close the files, and print the last step on a terminal."""
        self._file.close()
        clear_progress()
        if self._terminal and self._last:
            self._print_evaluation()
            say(self._last)
        self._trackers.close()

    def _write(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(nan_to_none(values), allow_nan=False) + "\n")
        self._file.flush()
        self._trackers.log(dict(scalars(values)), values["step"])


class NullLog:
    """The log of the other ranks: it does nothing."""

    def step(self, metrics: StepMetrics) -> None:
        """Do nothing."""

    def evaluation(self, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def retention(self, step: int, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def say_evaluation(self, text: str) -> None:
        """Do nothing."""

    def say_sample(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def truncate_after(file: Path, step: int) -> None:
    """Remove the lines of a JSONL file after ``step`` and incomplete lines: a resumed run writes them again."""
    if not file.is_file():
        return
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line)
        except ValueError:
            break  # a crash can leave the last line incomplete
    write_atomic(file, "".join(f"{line}\n" for line in lines))
