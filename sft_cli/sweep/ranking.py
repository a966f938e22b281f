"""Rank the members by the metric, and print the table and the next commands."""

import shlex
from collections.abc import Mapping

from sft_cli.config.compose import read_config
from sft_cli.config.schema.adapter import MERGEABLE, Init
from sft_cli.console import say, table
from sft_cli.sweep.metric import STEPS, MetricValue
from sft_cli.sweep.plan import Member, short_names
from sft_cli.sweep.state import MemberOutcome, MemberState, SweepRecord
from sft_cli.sweep.status import format_metric, member_label

ORDER = list(MemberState)


def rank_members(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> list[Member]:
    """Return the finished members from best to worst, then those without a value, then all others by state."""

    def sort_key(member: Member) -> tuple[int, bool, float]:
        """Return the sort key of a member."""
        outcome = outcomes[member]
        value = 0.0 if outcome.reading is None else outcome.reading.value
        signed = value if record.metric.mode == "min" else -value
        return ORDER.index(outcome.state), outcome.reading is None, signed

    return sorted(record.members, key=sort_key)


def best_member(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> tuple[Member, MetricValue] | None:
    """Return the best finished member with its value; None if no member has one."""
    first = rank_members(record, outcomes)[0]
    reading = outcomes[first].reading
    return None if outcomes[first].state is not MemberState.finished or reading is None else (first, reading)


def comparability_warning(record: SweepRecord) -> str:
    """Return a warning if the members' values are not comparable, else an empty text."""
    trained = record.metric.kind == STEPS
    other = any(key == "loss.reduction" or (trained and key.startswith("loss.")) for key in record.keys)
    if other and record.metric.name == "loss":
        shared = "nll" if trained else "perplexity"
        return f"the members' losses are different measures; compare them with --metric {shared}"
    if record.datasets > 1:
        return f"the members trained on {record.datasets} data sets, and may be evaluated on different held-out rows"
    return ""


def print_ranking(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> None:
    """Print the table, the failed members with their errors, and the next commands."""
    counts = {state: sum(outcome.state is state for outcome in outcomes.values()) for state in MemberState}
    summary = ", ".join(f"{number} {state.value}" for state, number in counts.items() if number)
    say(f"sweep     {record.directory}: {summary}")
    rows = []
    for member in rank_members(record, outcomes):
        outcome = outcomes[member]
        reading = outcome.reading
        measured = ("", "") if reading is None else (format_metric(reading.value), reading.step)
        spent = (outcome.steps, f"{outcome.seconds:,.0f} s", outcome.state.value)
        rows.append((member.name.partition("-")[0], *member.values, *measured, *spent))
    columns = ("member", *short_names(record.keys), record.metric.name, "at step", "steps", "time", "state")
    table(columns, rows)
    say(f"ranked    by {record.metric.caption()}")
    if warning := comparability_warning(record):
        say(f"          {warning}")
    for member in record.members:
        if outcomes[member].error:
            what = "failed" if outcomes[member].state is MemberState.failed else "warning"
            error = outcomes[member].error.replace("\n", "\n" + " " * 8)
            say(f"{what:<9} {member_label(record, member)}: {error}")
            say(f"          its log: {record.log(member)}")
    states = {member: outcomes[member].state for member in record.members}
    unfinished = [str(member.number - 1) for member, state in states.items() if state is not MemberState.finished]
    if record.job is not None and unfinished:
        script = shlex.quote(str(record.directory / "array.sbatch"))
        say(f"queued    squeue -j {record.job} lists running and waiting tasks; to submit the others:")
        say(f"again     sbatch --array={','.join(unfinished)} {script}")
    say(f"report    {record.directory / 'report.html'}")
    if (best := best_member(record, outcomes)) is not None:
        _next_steps(record, best[0])


def _next_steps(record: SweepRecord, member: Member) -> None:
    """Print the next commands for the best member."""
    run = record.run(member)
    path = shlex.quote(str(run.path))
    say(f"best      {member_label(record, member)}: {run.result}")
    say(f"next      sft eval {path} --compare base")
    adapter = read_config(run.config).adapter
    if adapter.kind in MERGEABLE:
        into = " --into dequantized" if adapter.init is Init.loftq else ""  # as sft train prints it
        say(f"          sft merge {path} --out {shlex.quote(str(run.path / 'merged'))}{into}")
