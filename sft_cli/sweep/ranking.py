"""The members in the order of the metric: the table at the end, and what to type next."""

import shlex
from collections.abc import Mapping

from sft_cli.config.compose import read_config
from sft_cli.config.schema.adapter import MERGEABLE, Init
from sft_cli.console import say, table
from sft_cli.sweep.metric import STEPS, MetricValue
from sft_cli.sweep.plan import Trial, short_names
from sft_cli.sweep.state import SweepRecord, TrialOutcome, TrialState
from sft_cli.sweep.status import format_metric, trial_label

ORDER = list(TrialState)


def rank_trials(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> list[Trial]:
    """The finished members from best to worst, those without a value behind them, then all others by their state."""

    def place(member: Trial) -> tuple[int, bool, float]:
        """Return the sort key of a trial."""
        found = outcomes[member]
        value = 0.0 if found.reading is None else found.reading.value
        signed = value if record.metric.mode == "min" else -value
        return ORDER.index(found.state), found.reading is None, signed

    return sorted(record.members, key=place)


def best_trial(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> tuple[Trial, MetricValue] | None:
    """The best finished member with its value; None where none has one."""
    first = rank_trials(record, outcomes)[0]
    reading = outcomes[first].reading
    return None if outcomes[first].state is not TrialState.finished or reading is None else (first, reading)


def comparability_warning(record: SweepRecord) -> str:
    """A warning where values cannot be compared as they are; empty elsewhere."""
    trained = record.metric.kind == STEPS
    other = any(key == "loss.reduction" or (trained and key.startswith("loss.")) for key in record.keys)
    if other and record.metric.name == "loss":
        shared = "nll" if trained else "perplexity"
        return f"the members' losses are not the same measure; what they share: --metric {shared}"
    if record.datasets > 1:
        return f"the members learned from {record.datasets} data sets, and may be measured on different held-out rows"
    return ""


def print_ranking(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> None:
    """Print the table, who failed and why, and the next commands."""
    counts = {state: sum(found.state is state for found in outcomes.values()) for state in TrialState}
    told = ", ".join(f"{number} {state.value}" for state, number in counts.items() if number)
    say(f"sweep     {record.directory}: {told}")
    rows = []
    for member in rank_trials(record, outcomes):
        found = outcomes[member]
        reading = found.reading
        measured = ("", "") if reading is None else (format_metric(reading.value), reading.step)
        spent = (found.steps, f"{found.seconds:,.0f} s", found.state.value)
        rows.append((member.name.partition("-")[0], *member.values, *measured, *spent))
    columns = ("member", *short_names(record.keys), record.metric.name, "at step", "steps", "time", "state")
    table(columns, rows)
    say(f"ranked    by {record.metric.caption()}")
    if warning := comparability_warning(record):
        say(f"          {warning}")
    for member in record.members:
        if outcomes[member].error:
            what = "failed" if outcomes[member].state is TrialState.failed else "behind"
            say(
                f"{what:<9} {trial_label(record, member)}: {outcomes[member].error.replace(chr(10), chr(10) + ' ' * 8)}"
            )
            say(f"          its log: {record.log(member)}")
    left = [str(member.number - 1) for member in record.members if outcomes[member].state is not TrialState.finished]
    if record.job is not None and left:
        script = shlex.quote(str(record.directory / "array.sbatch"))
        say(f"queued    squeue -j {record.job} lists what still runs or waits; what it does not:")
        say(f"again     sbatch --array={','.join(left)} {script}")
    say(f"report    {record.directory / 'report.html'}")
    if (found := best_trial(record, outcomes)) is not None:
        _next_steps(record, found[0])


def _next_steps(record: SweepRecord, member: Trial) -> None:
    """What to do with the best member."""
    run = record.run(member)
    path = shlex.quote(str(run.path))
    say(f"best      {trial_label(record, member)}: {run.result}")
    say(f"next      sft eval {path} --compare base")
    adapter = read_config(run.config).adapter
    if adapter.kind in MERGEABLE:
        into = " --into dequantized" if adapter.init is Init.loftq else ""  # as sft train says it
        say(f"          sft merge {path} --out {shlex.quote(str(run.path / 'merged'))}{into}")
