"""Runs members on this machine, so many at a time, each in a process of its own, and hears of signals."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft_cli.console import say
from sft_cli.sweep.page import write_sweep_page
from sft_cli.sweep.plan import Trial
from sft_cli.sweep.ranking import print_ranking
from sft_cli.sweep.state import SAVED, SweepRecord, TrialOutcome, TrialState, last_error, read_outcome, save_record
from sft_cli.sweep.status import SweepStatus
from sft_cli.utils.locks import is_locked
from sft_cli.utils.processes import STOP_SIGNALS, signals_handled_by

POLL = 0.1
MEMBER = [sys.executable, "-m", "sft_cli.sweep.child"]
"""What becomes a member; its arguments are our process and the run directory."""
LATECOMERS = 120.0
"""Seconds that members of a sweep that was killed have to save."""


@dataclass
class RunningTrial:
    """A running member."""

    member: Trial
    slot: int
    process: subprocess.Popen[bytes]
    log: Path
    begin: int


@dataclass(frozen=True)
class SweepCallbacks:
    """Whom the pool tells what happens: a start, an end with the reason of a failure, and now and then who runs."""

    start: Callable[[Trial], None]
    end: Callable[[Trial, str], None]
    running: Callable[[Sequence[Trial]], None]


def run_trials(
    record: SweepRecord, members: Sequence[Trial], slots: Sequence[Mapping[str, str]], told: SweepCallbacks
) -> int:
    """Run members, one in each slot at a time; a slot is what its environment has beside ours.

    A signal is passed on as SIGTERM: the members save and stop, and no other one is started.

    Returns:
        The signal that stopped the sweep, or 0.
    """
    waiting, live = list(members), list[RunningTrial]()
    with _forward_signals(live) as heard:
        try:
            while live or (waiting and not heard):
                while waiting and not heard and len(live) < len(slots):
                    slot = min(set(range(len(slots))) - {one.slot for one in live})
                    live.append(_start(record, waiting.pop(0), slot, slots[slot]))
                    told.start(live[-1].member)
                for one in [one for one in live if one.process.poll() is not None]:
                    live.remove(one)
                    told.end(one.member, _failure_reason(one))
                told.running([one.member for one in live])
                time.sleep(POLL)
        finally:
            for one in live:  # an error of ours: do not leave them behind
                one.process.terminate()
                one.process.wait()
    return heard[0] if heard else 0


def wait_for_saving(record: SweepRecord, members: Sequence[Trial]) -> None:
    """Wait until members of a sweep that was killed have saved and left their run directories, which they lock."""
    until, told = time.monotonic() + LATECOMERS, False
    for member in members:
        while is_locked(record.run(member).path / ".lock") and time.monotonic() < until:
            if not told:
                say("sweep     some members are still saving; waiting for them")
                told = True
            time.sleep(POLL)


def _start(record: SweepRecord, member: Trial, slot: int, environment: Mapping[str, str]) -> RunningTrial:
    """A member as it starts, in a session of its own: Ctrl-C reaches it through us, once."""
    log, run = record.log(member), record.run(member).path
    command = [*MEMBER, str(os.getpid()), str(run)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        return RunningTrial(member, slot, process, log, output.tell())


def _failure_reason(one: RunningTrial) -> str:
    """Why a member that ended failed, as a sentence; empty where it did not fail."""
    code = one.process.returncode
    if code == 0 or code in SAVED or -code in STOP_SIGNALS:
        return ""
    if found := last_error(one.log, one.begin):
        return found
    if code < 0:
        problem = f"it was killed by {signal.Signals(-code).name}"
        return f"{problem}, as a machine does that runs out of memory" if -code == signal.SIGKILL else problem
    with one.log.open("rb") as file:
        file.seek(one.begin)
        said = [line for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    stopped = [line.removeprefix("stopped ").strip() for line in said if line.startswith("stopped ")]
    last = (stopped or said or [""])[-1].strip()
    return last or f"it ended with exit code {code} and printed nothing"


@contextmanager
def _forward_signals(live: Sequence[RunningTrial]) -> Iterator[list[int]]:
    """The signals that came; each is passed on to the members that live then, a second one stops them at once."""
    heard: list[int] = []

    def hear(number: int) -> None:
        """Stop all trials after a signal."""
        heard.append(number)
        for one in live:
            one.process.terminate()

    with signals_handled_by(hear):
        yield heard


def run_sweep(record: SweepRecord, environments: Sequence[Mapping[str, str]], errors: Mapping[Trial, str]) -> int:
    """Run what is not finished, and conclude; the exit code.

    Args:
        record: The sweep.
        environments: For each member that runs at a time, what its environment has beside ours.
        errors: Why members failed in an earlier session.
    """
    status = SweepStatus(record)
    outcomes = {member: read_outcome(record, member) for member in record.members}
    left = [member for member in record.members if outcomes[member].state is not TrialState.finished]
    outcomes |= {member: read_outcome(record, member, errors.get(member, "")) for member in left}

    def end(member: Trial, reason: str) -> None:
        """Record the outcome of a trial that ended."""
        outcomes[member] = read_outcome(record, member, reason)
        status.end(member, outcomes[member])
        save_record(record, outcomes)

    told = SweepCallbacks(status.start, end, lambda members: status.running(members, outcomes))
    stopped = run_trials(record, left, environments, told)
    status.close()
    finish_sweep(record, outcomes)
    if stopped:
        say(f"stopped   resume with: sft sweep --resume {shlex.quote(str(record.directory))}")
        return 128 + stopped
    return int(any(found.state is not TrialState.finished or found.error for found in outcomes.values()))


def finish_sweep(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> None:
    """Write down how the members stand, and show it."""
    save_record(record, outcomes)
    write_sweep_page(record, outcomes)
    print_ranking(record, outcomes)
