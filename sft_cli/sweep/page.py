"""`report.html` of a sweep: its members in the order of the metric, what each key did, and how it went."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.report.html import csp_hash, package_text, template_environment
from sft_cli.sweep.charts import HEIGHT, WIDTH, axis_scale, key_effect, metric_curves
from sft_cli.sweep.metric import STEPS, SweepMetric, metric_curve, read_metrics
from sft_cli.sweep.plan import Trial, short_names
from sft_cli.sweep.ranking import best_trial, comparability_warning, rank_trials
from sft_cli.sweep.state import SweepRecord, TrialOutcome, TrialState
from sft_cli.sweep.status import format_metric, trial_label

NAME = "report.html"
LOSS = SweepMetric("loss", "min", STEPS)
"""What every sweep draws beside its own metric."""
BAR = 100
"""Width of the drawing in which a member's value stands."""


def write_sweep_page(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> Path:
    """Write the page into the sweep's directory; its path. It opens anywhere, without a network."""
    from markupsafe import Markup

    style = package_text("sft_cli.report", "page.css") + package_text("sft_cli.sweep", "sweep.css")
    page = template_environment("sft_cli.sweep").get_template("page.html.jinja")
    text = page.render(_values(record, outcomes) | {"style": Markup(style), "style_hash": csp_hash(style)})
    file = record.directory / NAME
    file.write_text(text, encoding="utf-8")
    return file


def _values(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> dict[str, Any]:
    """What the template shows."""
    first = best_trial(record, outcomes)
    leader = None if first is None else first[0]
    finished = [member for member in record.members if outcomes[member].state is TrialState.finished]
    found = {member: reading.value for member in finished if (reading := outcomes[member].reading) is not None}
    effects = [
        key_effect(key, {member: member.values[place] for member in record.members}, found, leader)
        for place, key in enumerate(record.keys)
    ]
    recorded = {member: read_metrics(record.run(member)) for member in record.members}
    charts = [
        (
            metric.title,
            metric_curves({member: metric_curve(metric, found) for member, found in recorded.items()}, leader),
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
        "rows": _rows(record, outcomes, found, leader),
        "effects": [one for one in effects if one is not None],
        "charts": [chart for chart in charts if chart[1] is not None],
        "matched": any(outcomes[member].exact_match is not None for member in record.members),
        "failed": [
            (trial_label(record, member), outcomes[member].error.splitlines(), record.log(member))
            for member in record.members
            if outcomes[member].error
        ],
        "label": lambda member: trial_label(record, member),
        "shown": format_metric,
        "size": (WIDTH, HEIGHT),
        "bar": BAR,
    }


def _totals(record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome]) -> list[tuple[str, str, str]]:
    """Title, value and remark of what stands large."""
    first = best_trial(record, outcomes)
    counts = {state: sum(found.state is state for found in outcomes.values()) for state in TrialState}
    others = ", ".join(
        f"{count} {state.value}" for state, count in counts.items() if count and state is not TrialState.finished
    )
    shown = [("finished", f"{counts[TrialState.finished]} of {len(outcomes)}", others)]
    if first is not None:
        member, reading = first
        shown.insert(0, (f"best {record.metric.name}", format_metric(reading.value), trial_label(record, member)))
    seconds = sum(found.seconds for found in outcomes.values())
    return [*shown, ("training time", f"{seconds:,.0f} s", f"in seconds, of all members; {record.parallel} at a time")]


def _rows(
    record: SweepRecord, outcomes: Mapping[Trial, TrialOutcome], found: Mapping[Trial, float], leader: Trial | None
) -> list[dict[str, Any]]:
    """The lines of the table, best first; those of finished members with the place of their value."""
    place = axis_scale(min(found.values()), max(found.values()), BAR - 8).place if found else None
    return [
        {
            "number": member.name.partition("-")[0],
            "name": member.name,
            "values": member.values,
            "reading": outcomes[member].reading,
            "at": place(found[member]) + 4 if place is not None and member in found else None,
            "outcome": outcomes[member],
            "best": member == leader,
        }
        for member in rank_trials(record, outcomes)
    ]
