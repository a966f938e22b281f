"""What a mix was meant to be and what it became: shares per source and stage, counts per task, language, other tags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.mixing.epoch_draw import EpochDraw, Pool
from sft_cli.utils.text import percent

UNITS = {"rows": "share_rows", "tokens": "share_tokens", "trained_tokens": "share_trained"}
"""What is counted, and what its share is called."""
NO_TAG = "(none)"
"""The value of rows without a tag."""
MAX_VALUES = 20
"""Values of a tag that a table shows."""


@dataclass(frozen=True)
class Tag:
    """One tag of a pool's rows.

    Attributes:
        values: The values there are.
        codes: ``(rows,)`` place of a row's value in ``values``; -1 for a row without the tag.
    """

    values: tuple[str, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class ReportTable:
    """A heading and what ``console.table`` prints below it."""

    heading: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def build_mix_report(draw: EpochDraw, pools: Sequence[Pool], tags: Sequence[Mapping[str, Tag]]) -> dict[str, Any]:
    """One epoch as plain JSON values: ``of``, ``sources``, ``stages`` and ``tags``.

    ``of`` says what the weights are: ``rows`` or ``trained tokens`` if they are shares of these, ``passes`` if they are
    passes over each source. A source's ``intended`` is a share of the epoch's trained tokens if the weights are, else
    of its rows, so that it compares with the realised ``share_…``; ``intended_passes`` stands beside it where the
    config states passes. ``rows``, ``tokens`` and ``trained_tokens`` count a repeated row each time.

    Args:
        draw: Copies of every row.
        pools: What was drawn from.
        tags: Per pool, tag -> value of every row.
    """
    copies = [draw.copies(place) for place in range(len(pools))]
    intended = np.sum([stage.intended for stage in draw.stages], axis=0)
    sources = _source_counts(draw, pools, copies, intended)
    for entry, passes, pool, own in zip(sources.values(), draw.passes.tolist(), pools, copies, strict=True):
        entry["intended_passes"] = None if np.isnan(passes) else passes
        entry["passes"] = _ratio(entry["rows"], len(pool.keys))
        entry["distinct_rows"] = int(np.count_nonzero(own))
        entry["available_rows"] = len(pool.keys)
    total_rows, meant = sum(entry["rows"] for entry in sources.values()), float(intended.sum())
    stages = []
    for stage in draw.stages:
        own = _source_counts(draw, pools, stage.copies, stage.intended)
        rows = sum(entry["rows"] for entry in own.values())
        shares = {"intended": _ratio(stage.intended.sum(), meant), "share": _ratio(rows, total_rows)}
        stages.append({"name": stage.name, "order": stage.order.value, "rows": rows, **shares, "sources": own})
    names = sorted({name for own in tags for name in own})
    by_tag = {name: _tag_counts(name, pools, copies, tags) for name in names}
    return {"of": _unit(draw), "sources": sources, "stages": stages, "tags": by_tag}


def _unit(draw: EpochDraw) -> str:
    """What the weights of a mix are."""
    if draw.by_tokens:
        return "trained tokens"
    return "rows" if np.isnan(draw.passes).any() else "passes"


def _source_counts(
    draw: EpochDraw, pools: Sequence[Pool], copies: Sequence[NDArray[np.int32]], intended: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """Per source the share it was meant to have, its counts, and its shares of them."""
    times = [own.astype(np.int64) for own in copies]
    counts = {
        "rows": [int(own.sum()) for own in times],
        "tokens": [int(own @ pool.lengths) for own, pool in zip(times, pools, strict=True)],
        "trained_tokens": [int(own @ pool.trained_tokens) for own, pool in zip(times, pools, strict=True)],
    }
    means = [pool.trained_tokens.sum() / max(1, len(pool.keys)) for pool in pools] if draw.by_tokens else 1.0
    amounts = intended * means
    return {
        pool.name: {
            "intended": _ratio(amounts[place], amounts.sum()),
            **{unit: counts[unit][place] for unit in UNITS},
            **{share: _ratio(counts[unit][place], sum(counts[unit])) for unit, share in UNITS.items()},
        }
        for place, pool in enumerate(pools)
    }


def _ratio(part: float, whole: float) -> float:
    """A share with six digits; 0 of nothing."""
    return round(float(part / whole), 6) if whole else 0.0


def _tag_counts(
    name: str, pools: Sequence[Pool], copies: Sequence[NDArray[np.int32]], tags: Sequence[Mapping[str, Tag]]
) -> dict[str, dict[str, Any]]:
    """Counts per value of a tag, most trained tokens first; rows without it last, as ``(none)``."""
    found: dict[str, NDArray[np.float64]] = {}
    for pool, own, tagged in zip(pools, copies, tags, strict=True):
        tag = tagged.get(name, Tag((), np.full(len(own), -1, np.int32)))
        units = (np.ones(len(own), np.int64), pool.lengths, pool.trained_tokens)
        sums = [np.bincount(tag.codes + 1, own * unit, len(tag.values) + 1) for unit in units]
        for value, amounts in zip((NO_TAG, *tag.values), np.stack(sums, 1), strict=True):
            found[value] = found.get(value, np.zeros(3)) + amounts
    total = sum(float(amounts[2]) for amounts in found.values())
    order = sorted(found, key=lambda value: (value == NO_TAG, -found[value][2], value))
    return {
        value: {
            **dict(zip(UNITS, map(int, found[value].tolist()), strict=True)),
            "share_trained": _ratio(found[value][2], total),
        }
        for value in order
        if found[value][0] > 0
    }


def mix_tables(report: Mapping[str, Any]) -> list[ReportTable]:
    """A report for the terminal: the sources, the stages if there are several, and each tag."""
    shown = [_source_table(report)]
    if len(report["stages"]) > 1:
        shown.append(_stage_table(report))
    return shown + [_tag_table(name, values) for name, values in report["tags"].items()]


def _source_table(report: Mapping[str, Any]) -> ReportTable:
    """Intended against realised, a line per source."""
    columns = ("source", "intended", "of rows", "of tokens", "of trained tokens", "rows", "trained tokens", "passes")
    rows = []
    for name, entry in report["sources"].items():
        shares = [percent(entry[share]) for share in UNITS.values()]
        counts = (entry["rows"], entry["trained_tokens"], entry["passes"])
        rows.append((name, _intended(entry, report["of"]), *shares, *counts))
    return ReportTable("an epoch", columns, rows)


def _intended(entry: Mapping[str, Any], of: str) -> str:
    """``2.5 passes``, or ``30.0% of rows``."""
    passes = entry["intended_passes"]
    if passes is None:
        return f"{percent(entry['intended'])} of {of}"
    return f"{passes:g} pass{'' if passes == 1 else 'es'}"


def _stage_table(report: Mapping[str, Any]) -> ReportTable:
    """A line per stage and source that takes part in it."""
    unit = "trained_tokens" if report["of"] == "trained tokens" else "rows"
    rows = []
    for stage in report["stages"]:
        part = f"{percent(stage['intended'])} -> {percent(stage['share'])}"
        for name, own in stage["sources"].items():
            if own["rows"] or own["intended"]:
                share = f"{percent(own['intended'])} -> {percent(own[UNITS[unit]])}"
                rows.append((stage["name"], stage["order"], part, name, share, own["rows"]))
    columns = ("stage", "order", "rows of the epoch", "source", f"{unit.replace('_', ' ')} of the stage", "rows")
    return ReportTable("stages, intended -> realised", columns, rows)


def _tag_table(name: str, values: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """A line per value; those beyond ``MAX_VALUES`` are added up."""
    lines = list(values.items())
    if len(lines) > MAX_VALUES:
        rest = [counts for _, counts in lines[MAX_VALUES - 1 :]]
        sums = {unit: sum(counts[unit] for counts in rest) for unit in (*UNITS, "share_trained")}
        lines[MAX_VALUES - 1 :] = [(f"({len(rest)} more)", sums)]
    rows = [(value, *(counts[unit] for unit in UNITS), percent(counts["share_trained"])) for value, counts in lines]
    return ReportTable(f"by {name}", (name, "rows", "tokens", "trained tokens", "of trained tokens"), rows)
