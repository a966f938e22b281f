"""Record steps whose loss spikes or is not finite, and end the run if needed.

trainer.on_nan=stop ends the run after a step whose loss or gradient is not finite. Nothing of the step is saved, so
that the last checkpoint is good. trainer.on_nan=skip changes no weight, no optimizer state and no average in such a
step, but counts it: later steps have the same data and learning rate as in a run where it did not occur. In float16,
the gradient scaler itself skips steps whose scaled gradient overflows; only the loss is checked here.
"""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from sft_cli.config.schema.trainer import OnNan, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.metrics import StepMetrics
from sft_cli.train.monitoring.step_rows import StepRow, describe_rows

MEDIAN_WINDOW = 32
"""Number of previous losses whose median a loss is compared with."""
MIN_LOSSES = 8
"""Number of previous losses below which no spike is detected: the loss falls fast in the first steps of a run."""
MAX_SKIPPED_IN_A_ROW = 10
"""Number of consecutive skipped steps that ends the run: training will not recover by itself."""


def is_finite_step(loss: float, grad_norm: float, *, scaled: bool) -> bool:
    """Return whether a step may change the weights.

    Args:
        loss: Its loss in nats.
        grad_norm: Norm of its gradient before clipping.
        scaled: Whether the gradient is scaled (float16), which skips overflowing steps by itself.
    """
    return math.isfinite(loss) and (scaled or math.isfinite(grad_norm))


@dataclass(frozen=True, slots=True)
class RecentSteps:
    """The losses of the last steps of a run.

    Attributes:
        losses: The last finite losses in nats, at most ``MEDIAN_WINDOW``, the newest last.
        nonfinite_in_a_row: Number of consecutive steps up to now whose loss or gradient was not finite.
    """

    losses: tuple[float, ...] = ()
    nonfinite_in_a_row: int = 0

    def append(self, loss: float, grad_norm: float, *, scaled: bool) -> "RecentSteps":
        """Return the recent steps with one more."""
        if not is_finite_step(loss, grad_norm, scaled=scaled):
            return replace(self, nonfinite_in_a_row=self.nonfinite_in_a_row + 1)
        return RecentSteps((*self.losses, loss)[-MEDIAN_WINDOW:], 0)


def read_recent_steps(metrics: Path, step: int, *, scaled: bool) -> RecentSteps:
    """Read the recent steps up to ``step`` from ``metrics.jsonl``, for a resumed run."""
    recent = RecentSteps()
    if not metrics.is_file():
        return recent
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # a crash can leave the last line incomplete
        if "grad_norm" in values and values["step"] <= step:
            loss, grad_norm = (float("nan") if values[name] is None else values[name] for name in ("loss", "grad_norm"))
            recent = recent.append(loss, grad_norm, scaled=scaled)
    return recent


def spike_baseline(loss: float, recent: RecentSteps, factor: float) -> float | None:
    """Return the median of the recent losses if ``loss`` is more than ``factor`` times that median; otherwise None."""
    if len(recent.losses) < MIN_LOSSES:
        return None
    baseline = median(recent.losses)
    return baseline if loss > factor * baseline > 0 else None


@dataclass(frozen=True, slots=True)
class Spike:
    """A line of ``spikes.jsonl``; a value that is not finite is null there.

    Attributes:
        step: The step, from 1.
        loss: Its loss in nats.
        grad_norm: Norm of its gradient before clipping.
        median: Median of the recent losses; None if the step is recorded because it is not finite.
        lr: Learning rate of the step.
        skipped: Whether the step changed nothing.
        rows: The rows of the step, the longest first.
    """

    step: int
    loss: float
    grad_norm: float
    median: float | None
    lr: float
    skipped: bool
    rows: Sequence[StepRow]

    def write(self, file: Path) -> None:
        """Append it to a file."""
        values = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")

    def describe(self) -> str:
        """Return a line for the console."""
        if self.median is None:
            problem = f"loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}{', skipped' if self.skipped else ''}"
        else:
            problem = f"loss {self.loss:.4g}, {self.loss / self.median:.1f} times the median before it"
        return f"spike     step {self.step}: {problem}; computed from {describe_rows(self.rows)}"


def detect_spike(
    metrics: StepMetrics,
    recent: RecentSteps,
    trainer: TrainerConfig,
    *,
    scaled: bool,
    rows: Callable[[], list[StepRow]],
) -> Spike | None:
    """Return the record of a step whose loss spikes or is not finite; None for any other step.

    Args:
        metrics: The step.
        recent: The steps before it.
        trainer: The settings of training.
        scaled: Whether the gradient is scaled (float16).
        rows: Returns the step's rows; called only if the step is recorded.
    """
    finite = is_finite_step(metrics.loss, metrics.grad_norm, scaled=scaled)
    baseline = spike_baseline(metrics.loss, recent, trainer.spike_factor) if finite else None
    if finite and baseline is None:
        return None
    skipped = not finite and trainer.on_nan is OnNan.skip
    return Spike(metrics.step, metrics.loss, metrics.grad_norm, baseline, metrics.lr, skipped, rows())


def raise_if_diverged(spike: Spike, on_nan: OnNan, nonfinite_in_a_row: int, run: RunDir) -> None:
    """Raise an error after a step that is not finite, unless it may be skipped; a spike raises none.

    Args:
        spike: The step.
        on_nan: ``trainer.on_nan``.
        nonfinite_in_a_row: Number of consecutive steps that are not finite, including this one; 0 for a spike.
        run: The run directory.

    Raises:
        SftError: Training diverged.
    """
    if nonfinite_in_a_row and (on_nan is OnNan.stop or nonfinite_in_a_row >= MAX_SKIPPED_IN_A_ROW):
        raise divergence_error(spike, on_nan, nonfinite_in_a_row, run)


def divergence_error(spike: Spike, on_nan: OnNan, nonfinite_in_a_row: int, run: RunDir) -> SftError:
    """Return the error that ends the run after a step that is not finite; see ``raise_if_diverged``."""
    where = f"step {spike.step}"
    values = f"loss {spike.loss:.4g}, gradient norm {spike.grad_norm:.4g}, computed from {describe_rows(spike.rows)}"
    restart = f"start a new run with a smaller trainer.lr (it was {spike.lr:.3g} here) or a longer warm-up"
    if on_nan is OnNan.skip:
        return SftError(
            where=where,
            problem=f"training diverged: {nonfinite_in_a_row} steps in a row were skipped, the last one: {values}",
            fix=f"{restart}, or with trainer.dtype=float32; the rows of all of them: {run.spikes}",
        )
    return SftError(
        where=where,
        problem=f"training diverged: {values}",
        fix=f"{restart}; or, if a row is at fault (all of them: {run.spikes}), skip such steps: "
        f"sft train --resume {shlex.quote(str(run.path))} trainer.on_nan=skip",
    )
