"""Logging of a run: metrics.jsonl, TensorBoard events, and the console."""

import importlib.util
import json
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from sft_cli.console import note, say
from sft_cli.progress import Progress
from sft_cli.run_dir import RunDir
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.mappings import nan_to_none
from sft_cli.utils.text import duration

RECENT_STEPS = 20
"""Number of last steps from whose times the remaining time is estimated."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics of one optimizer step.

    Attributes:
        step: Optimizer steps done, from 1.
        epoch: Passes over the data done, a fraction.
        loss: The objective on this step's examples before its update: nats per trained token (or per example;
            loss.reduction).
        terms: The terms of the objective by name, in the same units: ``nll``, plain cross-entropy (or ``dft``), plus
            ``smoothing``, ``z``, ``kl`` and ``router`` where they are on; ``replay`` is the part of replayed rows.
        lr: Learning rate of the update.
        grad_norm: Norm of the gradient before clipping.
        examples: Examples of the step.
        tokens: Their tokens.
        computed_tokens: Those that go through the model: common prefixes once, and none that no loss depends on.
        trained_tokens: Those that carry loss.
        seconds: Wall time of the step.
        tokens_per_second: ``tokens / seconds``.
        memory: Peak bytes so far: allocated on CUDA, resident on CPU.
        at: Time at its end, in seconds since 1970.
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
    """Appends to metrics.jsonl and TensorBoard, and prints the progress.

    A terminal shows a bar with the last step; other outputs, and console.log, get about twenty lines in all.
    """

    def __init__(self, file: Path, num_steps: int, done: int) -> None:
        truncate_after(file, done)
        self._file = file.open("a", encoding="utf-8")
        self._num_steps = num_steps
        self._board = _tensorboard(RunDir(file.parent).tensorboard, done)
        self._progress = Progress("train")
        self._terminal = sys.stdout.isatty() and sys.stderr.isatty()
        self._began = time.perf_counter()
        self._every = max(1, num_steps // 20)
        self._last = ""
        self._seconds = deque[float](maxlen=RECENT_STEPS)

    def step(self, metrics: StepMetrics) -> None:
        """Record a step."""
        self._write(asdict(metrics))
        parts = ", ".join(f"{name} {value:.4g}" for name, value in metrics.terms.items())
        made_of = f" ({parts})" if len(metrics.terms) > 1 else ""
        spent = duration(time.perf_counter() - self._began)
        self._seconds.append(metrics.seconds)
        # The median is robust against one slow step, such as the first or the one after an evaluation.
        left = duration((self._num_steps - metrics.step) * median_low(self._seconds))
        text = (
            f"epoch {metrics.epoch:.2f}  loss {metrics.loss:.4f}{made_of}  lr {metrics.lr:.2e}"
            f"  {metrics.tokens_per_second:,.0f} tokens/s"
        )
        self._last = f"step {metrics.step:>6}/{self._num_steps}  {text}"
        if metrics.step == 1 or metrics.step % self._every == 0 or metrics.step == self._num_steps:
            (note if self._terminal else say)(f"{self._last}  {spent}, {left} left")
        if self._terminal:
            share = metrics.step / self._num_steps
            self._progress.draw(share, f"{metrics.step}/{self._num_steps}, {left} left", text)

    def evaluation(self, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Record an evaluation."""
        self._write({"step": step, "epoch": epoch, "eval": True, **values})

    def retention(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the values of the retention probes, by name."""
        self._write({"step": step, "retention": values})

    def say(self, text: str) -> None:
        """Print a line."""
        say(text)

    def close(self) -> None:
        """Close the files, and print the last step on a terminal."""
        self._file.close()
        self._progress.close()
        if self._terminal and self._last:
            say(self._last)
        if self._board is not None:
            self._board.close()

    def _write(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(nan_to_none(values), allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in tensorboard_scalars(values):
                self._board.add_scalar(name, value, values["step"])


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

    def close(self) -> None:
        """Do nothing."""


def tensorboard_scalars(line: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the TensorBoard scalars of a line of metrics.jsonl: ``train/kl``, ``eval/sources/<name>``, and so on."""
    if "retention" in line:
        return list(_numbers(line["retention"], "retention"))
    rest = {name: value for name, value in line.items() if name not in ("step", "eval", "at", "terms")}
    return list(_numbers({**rest, **line.get("terms", {})}, "eval" if "eval" in line else "train"))


def _numbers(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a nested mapping, with names joined by slashes."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}/{name}")
        elif isinstance(value, int | float):
            yield f"{above}/{name}", value


def truncate_after(file: Path, step: int) -> None:
    """Remove the lines of a JSONL file after ``step``, and incomplete ones: a resumed run writes them again."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break  # incomplete after a crash, and the last line
    write_atomic(file, "".join(f"{line}\n" for line in kept))


def _tensorboard(directory: Path, done: int) -> Any:
    """Return a TensorBoard writer, or None where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    threading.excepthook = partial(_ignore_tensorboard_thread, threading.excepthook)
    return SummaryWriter(str(directory), purge_step=done + 1)


def _ignore_tensorboard_thread(
    usual: Callable[[threading.ExceptHookArgs], Any], failure: threading.ExceptHookArgs
) -> None:
    """Thread excepthook that ignores TensorBoard's threads: its writer raises the same error at the next value."""
    if not type(failure.thread).__module__.startswith("tensorboard."):
        usual(failure)
