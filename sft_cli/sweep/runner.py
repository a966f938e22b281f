"""Run members on this machine, several at a time, each in its own process, and forward signals."""

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

from sft_cli.console import counted, say
from sft_cli.sweep.page import write_sweep_page
from sft_cli.sweep.plan import Member
from sft_cli.sweep.ranking import print_ranking
from sft_cli.sweep.state import SAVED, MemberOutcome, MemberState, SweepRecord, last_error, read_outcome, save_record
from sft_cli.sweep.status import SweepStatus
from sft_cli.utils.locks import is_locked
from sft_cli.utils.processes import STOP_SIGNALS, signals_handled_by

POLL = 0.1
MEMBER = [sys.executable, "-m", "sft_cli.sweep.child"]
"""Command of a member; its arguments are this process and the run directory."""
SAVING_SECONDS = 120.0
"""Seconds to wait for members of a killed sweep to save."""


@dataclass
class RunningMember:
    """A running member with its process and log."""

    member: Member
    slot: int
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int


@dataclass(frozen=True)
class SweepCallbacks:
    """Functions called at the start of a member, at its end with the reason of a failure, and while members run."""

    start: Callable[[Member], None]
    end: Callable[[Member, str], None]
    running: Callable[[Sequence[Member]], None]


def run_members(
    record: SweepRecord, members: Sequence[Member], slots: Sequence[Mapping[str, str]], callbacks: SweepCallbacks
) -> int:
    """Run members, one per slot at a time; a slot is a set of additional environment variables.

    A signal is forwarded as SIGTERM: the members save and stop, and no further one is started.

    Args:
        record: The sweep.
        members: The members to run.
        slots: Additional environment variables of each slot.
        callbacks: Functions that are called about the progress.

    Returns:
        The signal that stopped the sweep, or 0.
    """
    waiting, live, announced = list(members), list[RunningMember](), False
    with _forward_signals(live) as signals:
        try:
            while live or (waiting and not signals):
                while waiting and not signals and len(live) < len(slots):
                    slot = min(set(range(len(slots))) - {running.slot for running in live})
                    live.append(_start(record, waiting.pop(0), slot, slots[slot]))
                    callbacks.start(live[-1].member)
                for ended in [running for running in live if running.process.poll() is not None]:
                    live.remove(ended)
                    callbacks.end(ended.member, _failure_reason(ended))
                callbacks.running([running.member for running in live])
                if signals and live and not announced:
                    announced = True
                    say(f"stopping  {_saving(len(live))}; a second {signal.Signals(signals[0]).name} ends at once")
                time.sleep(POLL)
        finally:
            for running in live:  # after an error of the sweep itself
                running.process.terminate()
                running.process.wait()
    return signals[0] if signals else 0


def _saving(number: int) -> str:
    """Return that the running members save a checkpoint."""
    return "the running member saves a checkpoint" if number == 1 else f"{number} running members save checkpoints"


def wait_for_saving(record: SweepRecord, members: Sequence[Member]) -> None:
    """Wait until members of a killed sweep have saved and released the locks of their run directories."""
    until, announced = time.monotonic() + SAVING_SECONDS, False
    for member in members:
        while is_locked(record.run(member).path / ".lock") and time.monotonic() < until:
            if not announced:
                say("sweep     some members are still saving; waiting for them")
                announced = True
            time.sleep(POLL)


def _start(record: SweepRecord, member: Member, slot: int, environment: Mapping[str, str]) -> RunningMember:
    """Start a member in its own session, so that Ctrl-C reaches it only once, through this process."""
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
        return RunningMember(member, slot, process, log, output.tell())


def _failure_reason(ended: RunningMember) -> str:
    """Return why an ended member failed, as a sentence; an empty text if it did not fail."""
    code = ended.process.returncode
    if code == 0 or code in SAVED or -code in STOP_SIGNALS:
        return ""
    if error := last_error(ended.log, ended.log_start):
        return error
    if code < 0:
        problem = f"the process was killed by {signal.Signals(-code).name}"
        return f"{problem}, probably because the machine ran out of memory" if -code == signal.SIGKILL else problem
    with ended.log.open("rb") as file:
        file.seek(ended.log_start)
        lines = [line for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    stopped = [line.removeprefix("stopped ").strip() for line in lines if line.startswith("stopped ")]
    last = (stopped or lines or [""])[-1].strip()
    return last or f"the process ended with exit code {code} and printed nothing"


@contextmanager
def _forward_signals(live: Sequence[RunningMember]) -> Iterator[list[int]]:
    """Yield a list of received signals; each is forwarded to the running members, a second one stops them at once."""
    signals: list[int] = []

    def forward(number: int) -> None:
        """Stop all members after a signal."""
        signals.append(number)
        for running in live:
            running.process.terminate()

    with signals_handled_by(forward):
        yield signals


def run_sweep(record: SweepRecord, environments: Sequence[Mapping[str, str]], errors: Mapping[Member, str]) -> int:
    """Run the unfinished members and print the ranking.

    Args:
        record: The sweep.
        environments: Additional environment variables of each parallel member.
        errors: Errors of members in an earlier session.

    Returns:
        The exit code.
    """
    status = SweepStatus(record)
    outcomes = {member: read_outcome(record, member) for member in record.members}
    unfinished = [member for member in record.members if outcomes[member].state is not MemberState.finished]
    outcomes |= {member: read_outcome(record, member, errors.get(member, "")) for member in unfinished}

    def end(member: Member, reason: str) -> None:
        """Record the outcome of a member that ended."""
        outcomes[member] = read_outcome(record, member, reason)
        status.end(member, outcomes[member])
        save_record(record, outcomes)

    callbacks = SweepCallbacks(status.start, end, lambda members: status.running(members, outcomes))
    stopped = run_members(record, unfinished, environments, callbacks)
    status.close()
    finish_sweep(record, outcomes)
    states = [outcome.state for outcome in outcomes.values()]
    command = f"sft sweep --resume {shlex.quote(str(record.directory))}"
    if stopped:
        finished = f"{states.count(MemberState.finished)} of {counted(len(states), 'member')} finished"
        say(f"stopped   by {signal.Signals(stopped).name}, {finished}; continue with: {command}")
        return 128 + stopped
    if MemberState.failed in states:
        say(f"again     {command}  # trains the failed members again")
    return int(any(outcome.state is not MemberState.finished or outcome.error for outcome in outcomes.values()))


def finish_sweep(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> None:
    """Save the outcomes, write the page and print the ranking."""
    save_record(record, outcomes)
    write_sweep_page(record, outcomes)
    print_ranking(record, outcomes)
