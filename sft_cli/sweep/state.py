"""The directory of a sweep and its sweep.json: what is swept, and how each member stands."""

import json
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.sweep.metric import MetricValue, SweepMetric, metric_value, read_metrics
from sft_cli.sweep.plan import Trial
from sft_cli.utils.atomic import write_atomic

NAME = "sweep.json"
LOG = "train.log"
"""What a member prints, in its run directory."""


SAVED = frozenset(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
"""Exit codes of a member that a signal stopped behind a saved step."""
_MISTAKES = re.compile(r"(?:^error: .*\n  fix: .*\n?)+\Z", re.MULTILINE)
_SRUN = re.compile(r"(?:^(?:srun|slurmstepd): .*\n?)+\Z", re.MULTILINE)


class TrialState(str, Enum):
    """How a member stands."""

    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"
    waiting = "waiting"


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How a member stands, and what it has reached.

    Attributes:
        state: Finished: there is a trained adapter or model.
        reading: Its value of the metric; None before there is one.
        steps: Optimizer steps done.
        seconds: Their wall time.
        exact_match: Share of the held-out rows that it answers word for word; None where that was not measured.
        error: Why it failed, or what went wrong behind a finished training, as a sentence; empty otherwise.
    """

    state: TrialState
    reading: MetricValue | None = None
    steps: int = 0
    seconds: float = 0.0
    error: str = ""
    exact_match: float | None = None


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as its directory keeps it.

    Attributes:
        directory: Where the members' run directories are.
        words: What was typed; secrets in addresses are masked.
        keys: The swept keys.
        members: In the order they start.
        metric: What they are ranked by.
        parallel: How many run at a time.
        job: The SLURM array job; None for a sweep on this machine.
        datasets: How many data sets the members were prepared from.
    """

    directory: Path
    words: tuple[str, ...]
    keys: tuple[str, ...]
    members: tuple[Trial, ...]
    metric: SweepMetric
    parallel: int
    job: str | None = None
    datasets: int = 1

    def run(self, member: Trial) -> RunDir:
        """A member's run directory."""
        return RunDir(self.directory / member.name)

    def log(self, member: Trial) -> Path:
        """Where a member's output goes: of SLURM's, which numbers tasks from 0, that of the job submitted last."""
        if self.job is None:
            return self.run(member).path / LOG
        logs = self.directory.glob(f"slurm-*_{member.number - 1}.log")
        first = self.directory / f"slurm-{self.job}_{member.number - 1}.log"
        return max(logs, key=lambda file: file.stat().st_mtime_ns, default=first)

    def with_metric(self, metric: SweepMetric) -> "SweepRecord":
        """Ranked by something else."""
        return replace(self, metric=metric)


def read_outcome(record: SweepRecord, member: Trial, error: str = "") -> TrialOutcome:
    """How a member stands, read from its run directory.

    Args:
        record: The sweep.
        member: Which.
        error: Why its last session ended, if it is known to have failed; without it, what its log ends with.
    """
    run = record.run(member)
    recorded = read_metrics(run)
    steps = [line for line in recorded if "eval" not in line and "retention" not in line]
    if run.adapter.is_dir() or run.model.is_dir():
        state = TrialState.finished
    else:
        error = error or last_error(record.log(member))
        state = TrialState.failed if error else TrialState.interrupted if steps else TrialState.waiting
    seconds = sum(line["seconds"] for line in steps)
    reading = metric_value(record.metric, recorded)
    return TrialOutcome(state, reading, len(steps), round(seconds, 2), error, read_exact_match(run))


def read_exact_match(run: RunDir) -> float | None:
    """Exact match of a run on its held-out rows: of ``sft eval``, else from the end of training; None without one."""
    evaluated = run.eval / "heldout.json"
    for file, within in ((evaluated, "metrics"), (run.tuned_scores, None)):
        if file.is_file():
            found = run.read_json(file)
            value = (found if within is None else found[within])["exact_match"]
            return None if value is None else float(value)
    return None


def last_error(log: Path, begin: int = 0) -> str:
    """Why the last session of a member failed, if its output ends with that: mistakes, each with its fix.

    Behind them srun says what its tasks ended with; where there is no mistake, that is the reason, unless a signal
    stopped the run behind a saved step.

    Args:
        log: A member's output.
        begin: The byte at which its last session began.
    """
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", errors="replace")
    behind = _SRUN.search(text)
    said = text[: behind.start()] if behind else text
    if found := _MISTAKES.search(said):
        return found.group().strip().replace("error: ", "")
    code = re.search(r"Exited with exit code (\d+)", behind.group()) if behind else None
    if behind is None or (code and int(code[1]) in SAVED):
        return ""
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    return f"{last} ({behind.group().splitlines()[0]})"


def save_record(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> None:
    """Write sweep.json."""
    members = [
        {**asdict(member), **asdict(outcomes[member]), "state": outcomes[member].state.value}
        for member in record.members
    ]
    values = {**asdict(record), "directory": None, "members": members}
    del values["directory"]  # it may be moved
    write_atomic(record.directory / NAME, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def load_record(path: Path) -> tuple[SweepRecord, dict[Trial, str]]:
    """A sweep, and why those members failed that did.

    Raises:
        SftError: There is none.
    """
    directory = path.expanduser()
    if not (directory / NAME).is_file():
        near = sorted(directory.parent.glob(f"*/{NAME}"), key=lambda file: file.stat().st_mtime)[-3:]
        raise SftError(
            where=f"--resume {path}",
            problem=f"no sweep's directory (no {NAME} there)",
            fix=f"sft sweep --resume {shlex.quote(str(near[-1].parent))}, the newest sweep there"
            if near
            else "name the directory that sft sweep printed",
        )
    try:
        values = json.loads((directory / NAME).read_text(encoding="utf-8"))
        members = {_member(one): str(one["error"]) for one in values["members"]}
        record = SweepRecord(
            directory=directory,
            words=tuple(values["words"]),
            keys=tuple(values["keys"]),
            members=tuple(members),
            metric=SweepMetric(**values["metric"]),
            parallel=int(values["parallel"]),
            job=values["job"],
            datasets=int(values["datasets"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SftError(
            where=str(directory / NAME),
            problem=f"it is not what sft sweep writes ({error})",
            fix="the members can be resumed one by one: sft train --resume RUN",
        ) from error
    return record, members


def _member(values: Mapping[str, object]) -> Trial:
    """A member; its name becomes a path, so it must be one part of one."""
    name, number, words = values["name"], values["number"], values["values"]
    if not isinstance(name, str) or not re.fullmatch(r"\d+-[\w.+=-]*", name) or not isinstance(number, int):
        raise ValueError(f"a member is called {name!r}")
    assert isinstance(words, Sequence)
    return Trial(number, name, tuple(str(word) for word in words))
