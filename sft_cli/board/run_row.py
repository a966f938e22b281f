"""One run as a row of the list: its state and last figures, from the ends of its files."""

import json
import math
import re
import shlex
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median_low

from sft_cli.board.tails import JsonLinesTail, Line, read_first_line
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.run_end import read_end
from sft_cli.train.run_list import RunState, run_state

TAIL_BYTES = 1 << 15
"""Bytes at the end of metrics.jsonl that the first look at a run reads: about 90 steps."""
RECENT_STEPS = 20
"""Steps whose median duration gives the remaining time."""
_STATE_BYTES = 4096
"""Bytes of a checkpoint's state.json that hold its progress."""
_SESSION = re.compile(r"\$ (?P<command>.*?)  # (?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4})")
_TRAINER = re.compile(r"^trainer:\n(?:  .*\n)*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run in the list. Losses are in nats, times in seconds since 1970.

    Attributes:
        name: Path of the run relative to the directory of the board.
        state: Its state.
        recipe: The recipe of its command line; empty if it names none.
        step: Optimizer steps done.
        planned_steps: Optimizer steps of the plan, from the epochs done so far; None before the first step.
        loss: Loss of the last step.
        held_out: The last held-out loss; None if none was measured in the last steps that were read.
        best_held_out: The smallest held-out loss up to the newest checkpoint or seen since.
        tokens_per_second: Median over the last steps.
        seconds_left: Estimated time until the last planned step, of a run that is running.
        started: Time of the first command line.
        changed: Time of the last write to metrics.jsonl or config.yaml.
    """

    name: str
    state: RunState
    recipe: str
    step: int
    planned_steps: int | None
    loss: float | None
    held_out: float | None
    best_held_out: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    started: float | None
    changed: float


class RunReader:
    """Reads the row of one run; each call reads only what was appended since the last one."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._tail = JsonLinesTail(run.metrics, TAIL_BYTES)
        self._steps = deque[Line](maxlen=RECENT_STEPS)
        self._held_out: float | None = None
        self._best: float | None = None
        self._checkpoint: Path | None = None
        self._limits = _plan_limits(run.config)
        self._command, self._started = read_session(run)

    def read(self, name: str) -> RunRow | None:
        """Return the row; None if the run is gone."""
        try:
            changed = self.run.config.stat().st_mtime
        except OSError:
            return None
        with suppress(OSError):
            changed = max(changed, self.run.metrics.stat().st_mtime)
        self._read_metrics()
        checkpoints = checkpoint_dir.list_checkpoints(self.run.checkpoints)
        self._read_best(checkpoints[-1] if checkpoints else None)
        state = _state(self.run, has_steps=bool(self._steps or checkpoints))
        last = self._steps[-1] if self._steps else {}
        step = int(last.get("step", 0)) or (checkpoint_dir.checkpoint_step(checkpoints[-1]) if checkpoints else 0)
        planned = self._planned_steps(last)
        return RunRow(
            name=name,
            state=state,
            recipe=recipe_of(self._command),
            step=step,
            planned_steps=planned,
            loss=number(last.get("loss")),
            held_out=self._held_out,
            best_held_out=self._best,
            tokens_per_second=self._median("tokens_per_second"),
            seconds_left=self._seconds_left(step, planned) if state == "running" else None,
            started=self._started,
            changed=changed,
        )

    def _read_metrics(self) -> None:
        """Read the new lines of metrics.jsonl."""
        lines, replaced = self._tail.read()
        if replaced:
            self._steps.clear()
            self._held_out = self._best = self._checkpoint = None
        for line in lines:
            if line.get("eval"):
                self._held_out = number(line.get("loss"))
                self._best = _smaller(self._best, self._held_out)
            elif "retention" not in line and isinstance(line.get("step"), int):
                self._steps.append(line)

    def _read_best(self, newest: Path | None) -> None:
        """Read the smallest held-out loss that the newest checkpoint records."""
        if newest is None or newest == self._checkpoint:
            return
        self._checkpoint = newest
        self._best = _smaller(self._best, saved_progress(newest).get("best_loss"))

    def _planned_steps(self, last: Line) -> int | None:
        """Return the number of planned steps."""
        if (end := _end_steps(self.run)) is not None:
            return end
        epochs, most = self._limits
        epoch = number(last.get("epoch"))
        if not epoch or epochs is None:
            return most
        planned = max(int(last["step"]), math.floor(epochs * last["step"] / epoch + 0.5))
        return planned if most is None else min(planned, most)

    def _seconds_left(self, step: int, planned: int | None) -> float | None:
        """Return the estimated time until the last planned step."""
        seconds = self._median("seconds")
        return None if planned is None or seconds is None else round((planned - step) * seconds, 1)

    def _median(self, key: str) -> float | None:
        """Return the median of a value over the last steps."""
        values = [value for line in self._steps if (value := number(line.get(key))) is not None]
        return median_low(values) if values else None


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def saved_progress(checkpoint: Path) -> Line:
    """Return step, best step and best loss of a checkpoint, which are the first entry of its state; empty without."""
    text = read_first_line(checkpoint / "state.json", _STATE_BYTES)
    _, found, rest = text.partition('"progress": ')
    try:
        return json.JSONDecoder().raw_decode(rest)[0] if found else {}
    except ValueError:
        return {}


def read_session(run: RunDir) -> tuple[str, float | None]:
    """Return the first command line of a run and its time; an empty text and None if it is not recorded."""
    match = _SESSION.fullmatch(read_first_line(run.console))
    if match is None:
        return "", None
    return match["command"], datetime.strptime(match["time"], "%Y-%m-%d %H:%M:%S %z").timestamp()


def recipe_of(command: str) -> str:
    """Return the recipe that a command line names; an empty text if it names none."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return next((word.removeprefix("recipe=") for word in words if word.startswith("recipe=")), "")


def _state(run: RunDir, *, has_steps: bool) -> RunState:
    """Return the state of a run; ``interrupted`` if its files are damaged or being replaced."""
    try:
        return run_state(run, has_steps=has_steps)
    except (OSError, ValueError, KeyError):
        return "interrupted"


def _end_steps(run: RunDir) -> int | None:
    """Return the planned steps of a run that ended."""
    try:
        end = read_end(run)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return end.planned_steps if end is not None else None


def _plan_limits(config: Path) -> tuple[float | None, int | None]:
    """Return ``trainer.epochs`` and ``trainer.max_steps`` of a resolved config, read without parsing all of it.

    Parsing 200 configs as YAML takes seconds.
    """
    try:
        section = _TRAINER.search(config.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None, None
    values = dict(re.findall(r"^  (epochs|max_steps): ([\d.]+)$", section[0], re.MULTILINE)) if section else {}
    epochs, steps = values.get("epochs"), values.get("max_steps")
    return float(epochs) if epochs else None, int(float(steps)) if steps else None


def _smaller(first: float | None, second: object) -> float | None:
    """Return the smaller of two losses."""
    found = [value for value in (first, number(second)) if value is not None]
    return min(found, default=None)
