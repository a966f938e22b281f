"""The directory of a sweep and its sweep.json: settings of the sweep and outcome of each member."""

import json
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from sft_cli.errors import SftError
from sft_cli.run_dir import SWEEP_RECORD, RunDir
from sft_cli.sweep.metric import MetricValue, SweepMetric, metric_value
from sft_cli.sweep.plan import Member
from sft_cli.train.run_list import read_metrics
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.home import expand_home

NAME = SWEEP_RECORD
LOG = "train.log"
"""File in the run directory with the output of a member."""


SAVED = frozenset(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
"""Exit codes of a member that saved a checkpoint after a signal."""
_MISTAKES = re.compile(r"(?:^error: .*\n  fix: .*\n?(?:^   or: .*\n?)*)+\Z", re.MULTILINE)
_SRUN = re.compile(r"(?:^(?:srun|slurmstepd): .*\n?)+\Z", re.MULTILINE)


class MemberState(str, Enum):
    """State of a member."""

    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"
    waiting = "waiting"


@dataclass(frozen=True, slots=True)
class MemberOutcome:
    """State and results of a member.

    Attributes:
        state: State; finished means that there is a trained adapter or model.
        reading: Value of the metric; None before there is one.
        steps: Number of optimizer steps done.
        seconds: Wall time of these steps.
        exact_match: Share of the held-out rows that are answered word for word; None if not measured.
        error: Reason of a failure, or an error after a finished training, as a sentence; otherwise empty.
    """

    state: MemberState
    reading: MetricValue | None = None
    steps: int = 0
    seconds: float = 0.0
    error: str = ""
    exact_match: float | None = None


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as stored in its directory.

    Attributes:
        directory: Directory of the members' run directories.
        words: The typed words, with secrets in addresses masked.
        keys: The swept keys.
        members: The members in start order.
        metric: Metric that ranks the members.
        parallel: Number of parallel members.
        job: The SLURM array job; None for a sweep on this machine.
        datasets: Number of distinct data sets.
    """

    directory: Path
    words: tuple[str, ...]
    keys: tuple[str, ...]
    members: tuple[Member, ...]
    metric: SweepMetric
    parallel: int
    job: str | None = None
    datasets: int = 1

    def run(self, member: Member) -> RunDir:
        """Return a member's run directory."""
        return RunDir(self.directory / member.name)

    def log(self, member: Member) -> Path:
        """Return the file with a member's output; under SLURM, whose tasks count from 0, that of the latest job."""
        if self.job is None:
            return self.run(member).path / LOG
        logs = self.directory.glob(f"slurm-*_{member.number - 1}.log")
        first = self.directory / f"slurm-{self.job}_{member.number - 1}.log"
        return max(logs, key=lambda file: file.stat().st_mtime_ns, default=first)

    def with_metric(self, metric: SweepMetric) -> "SweepRecord":
        """Return the record with another metric."""
        return replace(self, metric=metric)


def read_outcome(record: SweepRecord, member: Member, error: str = "") -> MemberOutcome:
    """Return the outcome of a member, read from its run directory.

    Args:
        record: The sweep.
        member: The member.
        error: Error of its last session, if it is known to have failed; by default the error at the end of its log.
    """
    run = record.run(member)
    recorded = list(read_metrics(run.metrics))
    steps = [line for line in recorded if "eval" not in line and "retention" not in line]
    if run.is_finished():
        state = MemberState.finished
    else:
        error = error or last_error(record.log(member))
        state = MemberState.failed if error else MemberState.interrupted if steps else MemberState.waiting
    seconds = sum(line["seconds"] for line in steps)
    reading = metric_value(record.metric, recorded)
    return MemberOutcome(state, reading, len(steps), round(seconds, 2), error, read_exact_match(run))


def read_exact_match(run: RunDir) -> float | None:
    """Return the exact match on held-out rows: of ``sft eval``, else of the end of training; None without one."""
    evaluated = run.eval / "heldout.json"
    for file, within in ((evaluated, "metrics"), (run.tuned_scores, None)):
        if file.is_file():
            scores = run.read_json(file)
            value = (scores if within is None else scores[within])["exact_match"]
            return None if value is None else float(value)
    return None


def last_error(log: Path, start: int = 0) -> str:
    """Return the errors, with their fixes, at the end of a member's log; an empty text without any.

    Lines of srun may follow them. Without errors, these lines are the reason, unless a signal stopped the run after it
    saved a checkpoint.

    Args:
        log: File with the output of a member.
        start: Byte at which its last session started.
    """
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    srun_lines = _SRUN.search(text)
    output = text[: srun_lines.start()] if srun_lines else text
    if errors := _MISTAKES.search(output):
        return errors.group().strip().replace("error: ", "")
    code = re.search(r"Exited with exit code (\d+)", srun_lines.group()) if srun_lines else None
    if srun_lines is None or (code and int(code[1]) in SAVED):
        return ""
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    return f"{last} ({srun_lines.group().splitlines()[0]})"


def save_record(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> None:
    """Write sweep.json."""
    members = [
        {**asdict(member), **asdict(outcomes[member]), "state": outcomes[member].state.value}
        for member in record.members
    ]
    values = {**asdict(record), "directory": None, "members": members}
    del values["directory"]  # the directory may be moved
    write_atomic(record.directory / NAME, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def load_record(path: Path) -> tuple[SweepRecord, dict[Member, str]]:
    """Return a sweep, and the error of each failed member.

    Raises:
        SftError: The directory holds no sweep.
    """
    directory = expand_home(path)
    if not (directory / NAME).is_file():
        near = sorted(directory.parent.glob(f"*/{NAME}"), key=lambda file: file.stat().st_mtime)[-3:]
        raise SftError(
            where=f"--resume {path}",
            problem=f"not the directory of a sweep (it has no {NAME})",
            fix=f"sft sweep --resume {shlex.quote(str(near[-1].parent))}, the newest sweep in that folder"
            if near
            else "name the directory that sft sweep printed",
        )
    try:
        values = json.loads((directory / NAME).read_text(encoding="utf-8"))
        members = {_member(entry): str(entry["error"]) for entry in values["members"]}
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
            problem=f"the file was not written by sft sweep ({error})",
            fix="the members can be resumed one by one: sft train --resume RUN",
        ) from error
    return record, members


def _member(values: Mapping[str, object]) -> Member:
    """Return a member from its stored values; its name must be a single part of a path."""
    name, number, words = values["name"], values["number"], values["values"]
    if not isinstance(name, str) or not re.fullmatch(r"\d+-[\w.+=-]*", name) or not isinstance(number, int):
        raise ValueError(f"a member is called {name!r}")
    assert isinstance(words, Sequence)
    return Member(number, name, tuple(str(word) for word in words))
