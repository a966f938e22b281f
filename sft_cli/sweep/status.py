"""Print the progress of a sweep: a line at each start and end, and on a terminal the running members."""

import time
from collections.abc import Mapping, Sequence

from sft_cli.console import say
from sft_cli.progress import Progress, has_terminal
from sft_cli.sweep.plan import Member, short_names
from sft_cli.sweep.state import MemberOutcome, MemberState, SweepRecord
from sft_cli.train.run_list import read_metrics

EVERY = 0.5
"""Seconds between two reads of the running members' metrics."""
WORDS = {
    MemberState.finished: "finished",
    MemberState.failed: "failed",
    MemberState.interrupted: "stopped",
    MemberState.waiting: "stopped",
}


def member_label(record: SweepRecord, member: Member) -> str:
    """Return a member's number and values: ``003 lr=1e-4 rank=8``."""
    pairs = zip(short_names(record.keys), member.values, strict=True)
    return " ".join([member.name.partition("-")[0], *(f"{name}={value}" for name, value in pairs)])


def format_metric(value: float) -> str:
    """Return the text of a metric's value."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


class SweepStatus:
    """Progress lines of one sweep."""

    def __init__(self, record: SweepRecord) -> None:
        self._record, self._progress = record, Progress("sweep")
        self._last_read = 0.0

    def start(self, member: Member) -> None:
        """Print that a member starts."""
        say(f"start     {member_label(self._record, member)}")

    def end(self, member: Member, outcome: MemberOutcome) -> None:
        """Print that a member ended, with its result."""
        if outcome.state is MemberState.failed:
            tail = f": {outcome.error.splitlines()[0]}"
        elif outcome.reading is not None:
            shown = format_metric(outcome.reading.value)
            tail = f": {self._record.metric.name} {shown} (step {outcome.reading.step}), {outcome.seconds:,.0f} s"
            tail += f"; then: {outcome.error.splitlines()[0]}" if outcome.error else ""
        else:
            tail = f": after step {outcome.steps}"
        say(f"{WORDS[outcome.state]:<9} {member_label(self._record, member)}{tail}")

    def running(self, members: Sequence[Member], outcomes: Mapping[Member, MemberOutcome]) -> None:
        """Show the running members and the progress of the sweep, at most every ``EVERY`` seconds."""
        now = time.monotonic()
        if not has_terminal() or not members or now - self._last_read < EVERY:
            return
        self._last_read = now
        ended = sum(outcome.state in (MemberState.finished, MemberState.failed) for outcome in outcomes.values())
        runs = []
        for member in members:
            steps = [line["step"] for line in read_metrics(self._record.run(member).metrics)]
            runs.append(f"{member_label(self._record, member)}{f' (step {steps[-1]})' if steps else ''}")
        share = ended / len(outcomes)
        self._progress.draw(share, f"{ended} of {len(outcomes)} runs", f"running: {', '.join(runs)}")

    def close(self) -> None:
        """Remove the bar."""
        self._progress.close()
