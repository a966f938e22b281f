"""Report the intended and the realised mix: shares per source and stage, counts per task, language and other tags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.mixing.epoch_draw import EpochDraw, Pool
from sft_cli.utils.text import percent

UNITS = {"rows": "share_rows", "tokens": "share_tokens", "trained_tokens": "share_trained"}
"""Counted units -> names of their shares."""
NO_TAG = "(none)"
"""The value for rows without a tag."""
MAX_VALUES = 20
"""Values of a tag that a table shows."""


@dataclass(frozen=True)
class Tag:
    """One tag of a pool's rows.

    Attributes:
        values: The distinct values.
        codes: ``(rows,)`` index of a row's value in ``values``; -1 for a row without the tag.
    """

    values: tuple[str, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class ReportTable:
    """A heading, and the table that ``console.table`` prints below it."""

    heading: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def build_mix_report(draw: EpochDraw, pools: Sequence[Pool], tags: Sequence[Mapping[str, Tag]]) -> dict[str, Any]:
    """Return the report on one epoch as JSON values: ``of``, ``sources``, ``stages`` and ``tags``.

    ``of`` is the unit of the weights: ``rows`` or ``trained tokens`` if they are shares of these, ``passes`` if they
    are passes over each source. A source's ``intended`` is a share of the epoch's trained tokens if the weights are,
    else of its rows, so that it compares with the realised ``share_…``. ``intended_passes`` is set where the config
    sets passes. ``rows``, ``tokens`` and ``trained_tokens`` include repeats.

    Args:
        draw: Copies of every row.
        pools: The pools of the draw.
        tags: Per pool, tag -> value of every row.
    """
    copies = [draw.copies(index) for index in range(len(pools))]
    intended = np.sum([stage.intended for stage in draw.stages], axis=0)
    sources = _source_counts(draw, pools, copies, intended)
    for entry, passes, pool, source_values in zip(sources.values(), draw.passes.tolist(), pools, copies, strict=True):
        entry["intended_passes"] = None if np.isnan(passes) else passes
        entry["passes"] = _ratio(entry["rows"], len(pool.keys))
        entry["distinct_rows"] = int(np.count_nonzero(source_values))
        entry["available_rows"] = len(pool.keys)
    total_rows, intended_rows = sum(entry["rows"] for entry in sources.values()), float(intended.sum())
    stages = []
    for stage in draw.stages:
        source_values = _source_counts(draw, pools, stage.copies, stage.intended)
        rows = sum(entry["rows"] for entry in source_values.values())
        shares = {"intended": _ratio(stage.intended.sum(), intended_rows), "share": _ratio(rows, total_rows)}
        stages.append(
            {"name": stage.name, "order": stage.order.value, "rows": rows, **shares, "sources": source_values}
        )
    names = sorted({name for source_values in tags for name in source_values})
    by_tag = {name: _tag_counts(name, pools, copies, tags) for name in names}
    return {"of": _unit(draw), "sources": sources, "stages": stages, "tags": by_tag}


def _unit(draw: EpochDraw) -> str:
    """Return the unit of the weights of a mix."""
    if draw.by_tokens:
        return "trained tokens"
    return "rows" if np.isnan(draw.passes).any() else "passes"


def _source_counts(
    draw: EpochDraw, pools: Sequence[Pool], copies: Sequence[NDArray[np.int32]], intended: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """Return the intended share, the counts and the realised shares of each source.

    Args:
        draw: The epoch.
        pools: The pools of the draw.
        copies: Per pool ``(rows,)`` copies of each row.
        intended: ``(pools,)`` intended rows.
    """
    pools_copies = [pool_copies.astype(np.int64) for pool_copies in copies]
    counts = {
        "rows": [int(pool_copies.sum()) for pool_copies in pools_copies],
        "tokens": [int(pool_copies @ pool.lengths) for pool_copies, pool in zip(pools_copies, pools, strict=True)],
        "trained_tokens": [
            int(pool_copies @ pool.trained_tokens) for pool_copies, pool in zip(pools_copies, pools, strict=True)
        ],
    }
    means = [pool.trained_tokens.sum() / max(1, len(pool.keys)) for pool in pools] if draw.by_tokens else 1.0
    amounts = intended * means
    return {
        pool.name: {
            "intended": _ratio(amounts[index], amounts.sum()),
            **{unit: counts[unit][index] for unit in UNITS},
            **{share: _ratio(counts[unit][index], sum(counts[unit])) for unit, share in UNITS.items()},
        }
        for index, pool in enumerate(pools)
    }


def _ratio(part: float, total: float) -> float:
    """Return a ratio rounded to six digits; 0 if the whole is 0."""
    return round(float(part / total), 6) if total else 0.0


def _tag_counts(
    name: str, pools: Sequence[Pool], copies: Sequence[NDArray[np.int32]], tags: Sequence[Mapping[str, Tag]]
) -> dict[str, dict[str, Any]]:
    """Return counts per value of a tag, most trained tokens first; rows without it last, as ``(none)``.

    Args:
        name: The tag.
        pools: The pools of the draw.
        copies: Per pool ``(rows,)`` copies of each row.
        tags: Per pool, tag -> value of every row.
    """
    amounts_by_value: dict[str, NDArray[np.float64]] = {}
    for pool, pool_copies, tagged in zip(pools, copies, tags, strict=True):
        tag = tagged.get(name, Tag((), np.full(len(pool_copies), -1, np.int32)))
        units = (np.ones(len(pool_copies), np.int64), pool.lengths, pool.trained_tokens)
        sums = [np.bincount(tag.codes + 1, pool_copies * unit, len(tag.values) + 1) for unit in units]
        for value, amounts in zip((NO_TAG, *tag.values), np.stack(sums, 1), strict=True):
            amounts_by_value[value] = amounts_by_value.get(value, np.zeros(3)) + amounts
    total = sum(float(amounts[2]) for amounts in amounts_by_value.values())
    order = sorted(amounts_by_value, key=lambda value: (value == NO_TAG, -amounts_by_value[value][2], value))
    return {
        value: {
            **dict(zip(UNITS, map(int, amounts_by_value[value].tolist()), strict=True)),
            "share_trained": _ratio(amounts_by_value[value][2], total),
        }
        for value in order
        if amounts_by_value[value][0] > 0
    }


def mix_tables(report: Mapping[str, Any]) -> list[ReportTable]:
    """Return the tables of a report: the sources, the stages if there are several, and each tag."""
    tables = [_source_table(report)]
    if len(report["stages"]) > 1:
        tables.append(_stage_table(report))
    return tables + [_tag_table(name, values) for name, values in report["tags"].items()]


def _source_table(report: Mapping[str, Any]) -> ReportTable:
    """Return the intended and realised shares, a line per source."""
    columns = ("source", "intended", "of rows", "of tokens", "of trained tokens", "rows", "trained tokens", "passes")
    rows = []
    for name, entry in report["sources"].items():
        shares = [percent(entry[share]) for share in UNITS.values()]
        counts = (entry["rows"], entry["trained_tokens"], entry["passes"])
        rows.append((name, _intended(entry, report["of"]), *shares, *counts))
    return ReportTable("an epoch", columns, rows)


def _intended(entry: Mapping[str, Any], of: str) -> str:
    """Return ``2.5 passes``, or ``30.0% of rows``."""
    passes = entry["intended_passes"]
    if passes is None:
        return f"{percent(entry['intended'])} of {of}"
    return f"{passes:g} pass{'' if passes == 1 else 'es'}"


def _stage_table(report: Mapping[str, Any]) -> ReportTable:
    """Return a line per stage and source that takes part in it."""
    unit = "trained_tokens" if report["of"] == "trained tokens" else "rows"
    rows = []
    for stage in report["stages"]:
        part = f"{percent(stage['intended'])} -> {percent(stage['share'])}"
        for name, entry in stage["sources"].items():
            if entry["rows"] or entry["intended"]:
                share = f"{percent(entry['intended'])} -> {percent(entry[UNITS[unit]])}"
                rows.append((stage["name"], stage["order"], part, name, share, entry["rows"]))
    columns = ("stage", "order", "rows of the epoch", "source", f"{unit.replace('_', ' ')} of the stage", "rows")
    return ReportTable("stages, intended -> realised", columns, rows)


def _tag_table(name: str, values: Mapping[str, Mapping[str, Any]]) -> ReportTable:
    """Return a line per value; those beyond ``MAX_VALUES`` are summed."""
    lines = list(values.items())
    if len(lines) > MAX_VALUES:
        others = [counts for _, counts in lines[MAX_VALUES - 1 :]]
        sums = {unit: sum(counts[unit] for counts in others) for unit in (*UNITS, "share_trained")}
        lines[MAX_VALUES - 1 :] = [(f"({len(others)} more)", sums)]
    rows = [(value, *(counts[unit] for unit in UNITS), percent(counts["share_trained"])) for value, counts in lines]
    return ReportTable(f"by {name}", (name, "rows", "tokens", "trained tokens", "of trained tokens"), rows)
