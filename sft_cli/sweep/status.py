"""What a person sees while a sweep runs: a line at each start and end, and below them, on a terminal, who runs."""

import time
from collections.abc import Mapping, Sequence

from sft_cli.console import say
from sft_cli.progress import Progress, has_terminal
from sft_cli.sweep.metric import read_metrics
from sft_cli.sweep.plan import Trial, short_names
from sft_cli.sweep.state import SweepRecord, TrialOutcome, TrialState

EVERY = 0.5
"""Seconds between two looks at the running members' metrics."""
WORDS = {
    TrialState.finished: "finished",
    TrialState.failed: "failed",
    TrialState.interrupted: "stopped",
    TrialState.waiting: "stopped",
}


def trial_label(record: SweepRecord, member: Trial) -> str:
    """A member by its values: ``003 lr=1e-4 rank=8``."""
    pairs = zip(short_names(record.keys), member.values, strict=True)
    return " ".join([member.name.partition("-")[0], *(f"{name}={value}" for name, value in pairs)])


def format_metric(value: float) -> str:
    """A value as it is shown."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


class SweepStatus:
    """The lines of one sweep."""

    def __init__(self, record: SweepRecord) -> None:
        self._record, self._progress = record, Progress("sweep")
        self._looked = 0.0

    def start(self, member: Trial) -> None:
        """A member starts."""
        say(f"start     {trial_label(self._record, member)}")

    def end(self, member: Trial, found: TrialOutcome) -> None:
        """A member ended."""
        if found.state is TrialState.failed:
            tail = f": {found.error.splitlines()[0]}"
        elif found.reading is not None:
            shown = format_metric(found.reading.value)
            tail = f": {self._record.metric.name} {shown} (step {found.reading.step}), {found.seconds:,.0f} s"
            tail += f"; then: {found.error.splitlines()[0]}" if found.error else ""
        else:
            tail = f": after step {found.steps}"
        say(f"{WORDS[found.state]:<9} {trial_label(self._record, member)}{tail}")

    def running(self, members: Sequence[Trial], outcomes: Mapping[Trial, TrialOutcome]) -> None:
        """Now and then: who runs, and how far the sweep is."""
        now = time.monotonic()
        if not has_terminal() or not members or now - self._looked < EVERY:
            return
        self._looked = now
        ended = sum(found.state in (TrialState.finished, TrialState.failed) for found in outcomes.values())
        runs = []
        for member in members:
            steps = [line["step"] for line in read_metrics(self._record.run(member))]
            runs.append(f"{trial_label(self._record, member)}{f' (step {steps[-1]})' if steps else ''}")
        share = ended / len(outcomes)
        self._progress.draw(share, f"{ended} of {len(outcomes)} runs", f"running: {', '.join(runs)}")

    def close(self) -> None:
        """Remove the bar."""
        self._progress.close()
