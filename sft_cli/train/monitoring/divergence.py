"""Losses that leap: a step's loss against the median of those before it, recorded with the step's rows."""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import median

from sft_cli.config.schema.trainer import OnNan, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.monitoring.metrics import StepMetrics
from sft_cli.train.monitoring.step_rows import StepRow, named

MOST = 10
"""Steps in a row that may be skipped: behind them nothing will change any more by itself."""


def usable(loss: float, grad_norm: float, *, scaled: bool) -> bool:
    """Whether a step's numbers may change the weights.

    Args:
        loss: Its loss in nats.
        grad_norm: Norm of its gradient before clipping.
        scaled: Whether a loss scale (float16) looks after the gradient itself.
    """
    return math.isfinite(loss) and (scaled or math.isfinite(grad_norm))


def refusal(
    step: int,
    loss: float,
    grad_norm: float,
    lr: float,
    rows: Sequence[StepRow],
    *,
    on_nan: OnNan,
    in_a_row: int,
    run: RunDir,
) -> SftError | None:
    """What ends the run behind a step that is not usable; None where it may go on.

    Args:
        step: The step, from 1.
        loss: Its loss in nats.
        grad_norm: Norm of its gradient before clipping.
        lr: Its learning rate.
        rows: What it was computed from.
        on_nan: What the config wants.
        in_a_row: Unusable steps in a row, this one counted.
        run: The run directory.
    """
    if on_nan is OnNan.skip and in_a_row < MOST:
        return None
    where = f"step {step}"
    found = f"loss {loss:.4g}, gradient norm {grad_norm:.4g}, computed from {named(rows)}"
    anew = f"start a new run with a smaller trainer.lr (it was {lr:.3g} here) or a longer warm-up"
    if on_nan is OnNan.skip:
        return SftError(
            where=where,
            problem=f"training diverged: {in_a_row} steps in a row were skipped, the last one: {found}",
            fix=f"{anew}, or with trainer.dtype=float32; the rows of all of them: {run.spikes}",
        )
    return SftError(
        where=where,
        problem=f"training diverged: {found}",
        fix=f"{anew}; or, if a row is at fault (all of them: {run.spikes}), skip such steps: "
        f"sft train --resume {shlex.quote(str(run.path))} trainer.on_nan=skip",
    )


WINDOW = 32
"""Losses that a loss is compared with."""
FEWEST = 8
"""Losses that must be known before one can leap: the first steps of a run fall fast."""


@dataclass(frozen=True, slots=True)
class Recent:
    """What the last steps of a run gave.

    Attributes:
        losses: The last usable losses in nats, at most ``WINDOW``, the newest last.
        unusable: Steps in a row, up to now, whose loss or gradient was not a finite number.
    """

    losses: tuple[float, ...] = ()
    unusable: int = 0

    def behind(self, loss: float, grad_norm: float, *, scaled: bool) -> "Recent":
        """What is known behind one more step."""
        if not usable(loss, grad_norm, scaled=scaled):
            return replace(self, unusable=self.unusable + 1)
        return Recent((*self.losses, loss)[-WINDOW:], 0)


def recent(metrics: Path, step: int, *, scaled: bool) -> Recent:
    """What ``metrics.jsonl`` knows of the steps up to ``step``: a resumed run goes on with it."""
    found = Recent()
    if not metrics.is_file():
        return found
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # torn by a crash: nothing behind it was written
        if "grad_norm" in values and values["step"] <= step:
            loss, norm = (float("nan") if values[name] is None else values[name] for name in ("loss", "grad_norm"))
            found = found.behind(loss, norm, scaled=scaled)
    return found


def leapt(loss: float, before: Recent, factor: float) -> float | None:
    """The median of the losses before, if this one is more than ``factor`` times as large; None otherwise."""
    if len(before.losses) < FEWEST:
        return None
    middle = median(before.losses)
    return middle if loss > factor * middle > 0 else None


@dataclass(frozen=True, slots=True)
class Spike:
    """A line of ``spikes.jsonl``; what is no finite number is null there.

    Attributes:
        step: The step, from 1.
        loss: Its loss in nats.
        grad_norm: Norm of its gradient before clipping.
        median: Of the losses before, where the loss leapt.
        lr: Learning rate of the step.
        skipped: Whether the step changed nothing.
        rows: What it was computed from, the longest first.
    """

    step: int
    loss: float
    grad_norm: float
    median: float | None
    lr: float
    skipped: bool
    rows: Sequence[StepRow]

    def write(self, file: Path) -> None:
        """Append it."""
        values = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in asdict(self).items()
        }
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")

    def sentence(self) -> str:
        """One line for the person at the console."""
        if self.median is None:
            what = f"loss {self.loss:.4g}, gradient norm {self.grad_norm:.4g}{', skipped' if self.skipped else ''}"
        else:
            what = f"loss {self.loss:.4g}, {self.loss / self.median:.1f} times the median before it"
        return f"spike     step {self.step}: {what}; computed from {named(self.rows)}"


def spike_of(
    metrics: StepMetrics, before: Recent, trainer: TrainerConfig, *, scaled: bool, rows: Callable[[], list[StepRow]]
) -> Spike | None:
    """What is to be recorded of a step, if anything is.

    Args:
        metrics: The step.
        before: The steps before it.
        trainer: How it is trained.
        scaled: Whether a loss scale (float16) looks after the gradient itself.
        rows: Names the step's rows; asked only if it is needed.
    """
    sound = usable(metrics.loss, metrics.grad_norm, scaled=scaled)
    middle = leapt(metrics.loss, before, trainer.spike_factor) if sound else None
    if sound and middle is None:
        return None
    skipped = not sound and trainer.on_nan is OnNan.skip
    return Spike(metrics.step, metrics.loss, metrics.grad_norm, middle, metrics.lr, skipped, rows())


def refuse_divergence(spike: Spike, on_nan: OnNan, unusable: int, run: RunDir) -> None:
    """End the run behind a step that is not finite, unless it was skipped; a loss that only leapt ends nothing.

    Args:
        spike: The step.
        on_nan: What the config wants.
        unusable: Steps in a row, this one counted, that are not finite; 0 for a loss that leapt.
        run: The run directory.

    Raises:
        SftError: Training diverged.
    """
    numbers = (spike.step, spike.loss, spike.grad_norm, spike.lr, spike.rows)
    error = refusal(*numbers, on_nan=on_nan, in_a_row=unusable, run=run) if unusable else None
    if error is not None:
        raise error
