"""``report.html`` of a sweep: ranked members, the effect of each key, and the curves of the metric."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.report.axes import HEIGHT, WIDTH, axis_scale
from sft_cli.report.html import csp_hash, package_text, template_environment
from sft_cli.sweep.charts import key_effect, metric_curves
from sft_cli.sweep.metric import STEPS, SweepMetric, metric_curve
from sft_cli.sweep.plan import Member, short_names
from sft_cli.sweep.ranking import best_member, comparability_warning, rank_members
from sft_cli.sweep.state import MemberOutcome, MemberState, SweepRecord
from sft_cli.sweep.status import format_metric, member_label
from sft_cli.train.run_list import read_metrics

NAME = "report.html"
LOSS = SweepMetric("loss", "min", STEPS)
"""Metric that every page shows in addition to the sweep's own."""
BAR = 100
"""Width of the bar that shows a member's value."""


def write_sweep_page(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> Path:
    """Write the page, which needs no network, into the sweep's directory, and return its path."""
    from markupsafe import Markup

    style = package_text("sft_cli.report", "page.css") + package_text("sft_cli.sweep", "sweep.css")
    page = template_environment("sft_cli.sweep").get_template("page.html.jinja")
    text = page.render(_values(record, outcomes) | {"style": Markup(style), "style_hash": csp_hash(style)})
    file = record.directory / NAME
    file.write_text(text, encoding="utf-8")
    return file


def _values(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> dict[str, Any]:
    """Return the values of the template."""
    first = best_member(record, outcomes)
    leader = None if first is None else first[0]
    finished = [member for member in record.members if outcomes[member].state is MemberState.finished]
    measured = {member: reading.value for member in finished if (reading := outcomes[member].reading) is not None}
    effects = [
        key_effect(key, {member: member.values[place] for member in record.members}, measured, leader)
        for place, key in enumerate(record.keys)
    ]
    recorded = {member: list(read_metrics(record.run(member).metrics)) for member in record.members}
    charts = [
        (
            metric.title,
            metric_curves({member: metric_curve(metric, lines) for member, lines in recorded.items()}, leader),
        )
        for metric in dict.fromkeys((record.metric, LOSS))
    ]
    return {
        "name": record.directory.absolute().name,
        "record": record,
        "names": short_names(record.keys),
        "caption": record.metric.caption(),
        "note": comparability_warning(record),
        "totals": _totals(record, outcomes),
        "rows": _rows(record, outcomes, measured, leader),
        "effects": [effect for effect in effects if effect is not None],
        "charts": [chart for chart in charts if chart[1] is not None],
        "matched": any(outcomes[member].exact_match is not None for member in record.members),
        "failed": [
            (member_label(record, member), outcomes[member].error.splitlines(), record.log(member))
            for member in record.members
            if outcomes[member].error
        ],
        "label": lambda member: member_label(record, member),
        "shown": format_metric,
        "chart_size": (WIDTH, HEIGHT),
        "bar": BAR,
    }


def _totals(record: SweepRecord, outcomes: Mapping[Member, MemberOutcome]) -> list[tuple[str, str, str]]:
    """Return title, value and remark of the figures at the top of the page."""
    first = best_member(record, outcomes)
    counts = {state: sum(outcome.state is state for outcome in outcomes.values()) for state in MemberState}
    others = ", ".join(
        f"{count} {state.value}" for state, count in counts.items() if count and state is not MemberState.finished
    )
    shown = [("finished", f"{counts[MemberState.finished]} of {len(outcomes)}", others)]
    if first is not None:
        member, reading = first
        shown.insert(0, (f"best {record.metric.name}", format_metric(reading.value), member_label(record, member)))
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    return [*shown, ("training time", f"{seconds:,.0f} s", f"in seconds, of all members; {record.parallel} at a time")]


def _rows(
    record: SweepRecord,
    outcomes: Mapping[Member, MemberOutcome],
    measured: Mapping[Member, float],
    leader: Member | None,
) -> list[dict[str, Any]]:
    """Return the rows of the table, best first; finished members have the position of their value."""
    position = axis_scale(min(measured.values()), max(measured.values()), BAR - 8).position if measured else None
    return [
        {
            "number": member.name.partition("-")[0],
            "name": member.name,
            "values": member.values,
            "reading": outcomes[member].reading,
            "at": position(measured[member]) + 4 if position is not None and member in measured else None,
            "outcome": outcomes[member],
            "best": member == leader,
        }
        for member in rank_members(record, outcomes)
    ]
