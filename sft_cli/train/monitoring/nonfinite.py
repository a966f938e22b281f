"""A step whose loss or gradient is not a finite number: whether its update counts, and what a person is told.

trainer.on_nan=stop ends the run behind it; nothing of it is saved, so the last checkpoint is sound. trainer.on_nan=skip
changes no weight, no optimizer state and no average with it, but counts the step: the order of the data and the
learning rate of every later step stay those of a run in which it had been sound. float16 finds by itself which loss
scale fits, and leaves out steps whose scaled gradient overflows; only its loss is judged here.
"""

import math
import shlex
from collections.abc import Sequence

from sft_cli.config.schema.trainer import OnNan
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
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
