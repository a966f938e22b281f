"""`report.html` of a sweep: its members in the order of the metric, what each key did, and how it went."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.report.html import digest, environment, own
from sft_cli.sweep.charts import HEIGHT, WIDTH, curves, effect, scale
from sft_cli.sweep.metric import STEPS, Metric, curve, lines
from sft_cli.sweep.plan import Member, short_names
from sft_cli.sweep.ranking import best, note, ranked
from sft_cli.sweep.state import Outcome, Record, State
from sft_cli.sweep.status import label, number

NAME = "report.html"
LOSS = Metric("loss", "min", STEPS)
"""What every sweep draws beside its own metric."""
BAR = 100
"""Width of the drawing in which a member's value stands."""


def write_page(record: Record, outcomes: Mapping[Member, Outcome]) -> Path:
    """Write the page into the sweep's directory; its path. It opens anywhere, without a network."""
    from markupsafe import Markup

    style = own("sft_cli.report", "page.css") + own("sft_cli.sweep", "sweep.css")
    page = environment("sft_cli.sweep").get_template("page.html.jinja")
    text = page.render(_values(record, outcomes) | {"style": Markup(style), "style_hash": digest(style)})
    file = record.directory / NAME
    file.write_text(text, encoding="utf-8")
    return file


def _values(record: Record, outcomes: Mapping[Member, Outcome]) -> dict[str, Any]:
    """What the template shows."""
    first = best(record, outcomes)
    leader = None if first is None else first[0]
    finished = [member for member in record.members if outcomes[member].state is State.finished]
    found = {member: reading.value for member in finished if (reading := outcomes[member].reading) is not None}
    effects = [
        effect(key, {member: member.values[place] for member in record.members}, found, leader)
        for place, key in enumerate(record.keys)
    ]
    recorded = {member: lines(record.run(member)) for member in record.members}
    charts = [
        (metric.title, curves({member: curve(metric, found) for member, found in recorded.items()}, leader))
        for metric in dict.fromkeys((record.metric, LOSS))
    ]
    return {
        "name": record.directory.absolute().name,
        "record": record,
        "names": short_names(record.keys),
        "caption": record.metric.caption(),
        "note": note(record),
        "totals": _totals(record, outcomes),
        "rows": _rows(record, outcomes, found, leader),
        "effects": [one for one in effects if one is not None],
        "charts": [chart for chart in charts if chart[1] is not None],
        "matched": any(outcomes[member].exact_match is not None for member in record.members),
        "failed": [
            (label(record, member), outcomes[member].error.splitlines(), record.log(member))
            for member in record.members
            if outcomes[member].error
        ],
        "label": lambda member: label(record, member),
        "shown": number,
        "size": (WIDTH, HEIGHT),
        "bar": BAR,
    }


def _totals(record: Record, outcomes: Mapping[Member, Outcome]) -> list[tuple[str, str, str]]:
    """Title, value and remark of what stands large."""
    first = best(record, outcomes)
    counts = {state: sum(found.state is state for found in outcomes.values()) for state in State}
    others = ", ".join(
        f"{count} {state.value}" for state, count in counts.items() if count and state is not State.finished
    )
    shown = [("finished", f"{counts[State.finished]} of {len(outcomes)}", others)]
    if first is not None:
        member, reading = first
        shown.insert(0, (f"best {record.metric.name}", number(reading.value), label(record, member)))
    seconds = sum(found.seconds for found in outcomes.values())
    return [*shown, ("training time", f"{seconds:,.0f} s", f"in seconds, of all members; {record.parallel} at a time")]


def _rows(
    record: Record, outcomes: Mapping[Member, Outcome], found: Mapping[Member, float], leader: Member | None
) -> list[dict[str, Any]]:
    """The lines of the table, best first; those of finished members with the place of their value."""
    place = scale(min(found.values()), max(found.values()), BAR - 8).place if found else None
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
        for member in ranked(record, outcomes)
    ]
