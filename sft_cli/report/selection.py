"""Rows of prepared data that are chosen to be printed, each with its line of the ledger."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_cli.data.prepared import PreparedData
from sft_cli.errors import SftError
from sft_cli.escape import one_line
from sft_cli.report import gallery, ledger_view
from sft_cli.report.kinds import KINDS, Worst
from sft_cli.report.ledger_view import Line
from sft_cli.report.split_stats import ExampleRow, SplitStats
from sft_cli.report.token_pieces import PreparedTokenReader
from sft_cli.types import SplitName
from sft_cli.utils.similar import closest_name

AMBIGUOUS = 3
"""Rows of one place that are named in an error."""
SIDES: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows to choose.

    Attributes:
        row: Number of an example in its split, or a row's place; None to choose otherwise.
        where: Part of a row's place; None to choose otherwise.
        text: Expression that is found in what the rows' tokens decode to; None to choose otherwise.
        worst: What the rows are extreme in; used where none of the others is given.
        source: Only rows of this source; None for all.
        n: How many rows at most.
        split: Which split; None looks for places in both, and for examples in train.
    """

    row: str | None = None
    where: str | None = None
    text: re.Pattern[str] | None = None
    worst: Worst = "random"
    source: str | None = None
    n: int = 3
    split: SplitName | None = None


@dataclass(frozen=True, slots=True)
class InspectedRow:
    """One row: its line of the ledger (None where there is none) and its examples."""

    line: Line | None
    examples: list[tuple[SplitName, ExampleRow]]


def select(prepared: PreparedData, selection: Selection, reader: PreparedTokenReader) -> tuple[list[InspectedRow], str]:
    """The rows that a selection chooses, and a remark on those that it leaves out; empty without any.

    Raises:
        SftError: There is no such row or source.
    """
    _check_source(selection, prepared)
    if selection.row is not None:
        return [_by_index(prepared, selection) if selection.row.isdecimal() else _by_place(prepared, selection)], ""
    if selection.where is not None:
        return _by_part(prepared, selection)
    if selection.text is not None:
        return _by_text(prepared, selection, selection.text, reader)
    return _extreme(prepared, selection)


def _check_source(selection: Selection, prepared: PreparedData) -> None:
    """Refuse the name of a source that is not there."""
    names = list(prepared.manifest["sources"])
    if selection.source is not None and selection.source not in names:
        meant = closest_name(selection.source, names)
        raise SftError(
            where=f"--source {selection.source}",
            problem="the prepared data have no such source",
            fix=f"did you mean --source {meant}?" if meant else f"the sources are {', '.join(names)}",
        )


def _by_index(prepared: PreparedData, selection: Selection) -> InspectedRow:
    """The example of a number."""
    assert selection.row is not None
    side, index = selection.split or "train", int(selection.row)
    survey = SplitStats(prepared.directory, side)
    if index >= len(survey):
        held = f"has {len(survey):,} examples, numbered from 0" if len(survey) else "has no examples"
        raise SftError(
            where=f"--row {selection.row}",
            problem=f"the split {side} {held}",
            fix="name one of them, or --row FILE:LINE for a place",
        )
    row = survey.row(index)
    place = (row.source, row.where)
    return InspectedRow(ledger_view.find_lines(_ledger(prepared), {place}).get(place), [(side, row)])


def _by_place(prepared: PreparedData, selection: Selection) -> InspectedRow:
    """The row of a place: of exactly this one, or of the only one that ends in it behind a slash."""
    assert selection.row is not None
    exact, ending, first = [], [], None
    for line in _matching(_ledger(prepared), selection.row, selection):
        first = first or line
        for kept, fits in (
            (exact, line["where"] == selection.row),
            (ending, line["where"].endswith(f"/{selection.row}")),
        ):
            if fits and len(kept) < AMBIGUOUS:
                kept.append(line)
    named = exact or ending
    if len(named) == 1:
        return _with_examples(prepared, named, selection)[0]
    if named:
        places = ", ".join(one_line(f"{line['where']} of {line['source']}") for line in named)
        problem, fix = f"several rows are there: {places}", f"--where {selection.row} prints them"
    elif first is not None:
        problem, fix = "no row is exactly there", f"did you mean --row {one_line(first['where'])}?"
    else:
        problem, fix = (
            "the ledger has no row there",
            "--where PART searches for a part of a place such as rows.jsonl:17",
        )
    raise SftError(where=f"--row {selection.row}", problem=problem, fix=fix)


def _by_part(prepared: PreparedData, selection: Selection) -> tuple[list[InspectedRow], str]:
    """The first rows whose place holds a text, and how many more there are."""
    assert selection.where is not None
    lines, more = [], 0
    for line in _matching(_ledger(prepared), selection.where, selection):
        if len(lines) < selection.n:
            lines.append(line)
        else:
            more += 1
    if not lines:
        raise SftError(
            where=f"--where {selection.where}",
            problem="no row has that in its place" + (f" in {selection.split}" if selection.split else ""),
            fix="places look like rows.jsonl:17; sft inspect without --where shows some",
        )
    remark = f"{more:,} more rows match; -n {selection.n + more} prints all" if more else ""
    return _with_examples(prepared, lines, selection), remark


def _by_text(
    prepared: PreparedData, selection: Selection, pattern: re.Pattern[str], reader: PreparedTokenReader
) -> tuple[list[InspectedRow], str]:
    """The first examples whose text holds what was asked for, and whether there are more."""
    places, more = list[tuple[SplitName, ExampleRow]](), False
    for side in SIDES if selection.split is None else (selection.split,):
        survey = SplitStats(prepared.directory, side)
        for index in range(len(survey)) if selection.source is None else survey.rows_of_source(selection.source):
            row = survey.row(int(index))
            if pattern.search(reader.text(row.ids)) is None:
                continue
            if len(places) == selection.n:
                more = True
                break
            places.append((side, row))
    if not places:
        raise SftError(
            where=f"--text {pattern.pattern}",
            problem="it is in no example" + (f" of {selection.split}" if selection.split else ""),
            fix="--text is a regular expression over the text that the tokens decode to, template and all",
        )
    lines = ledger_view.find_lines(_ledger(prepared), {(row.source, row.where) for _, row in places})
    found = [InspectedRow(lines.get((row.source, row.where)), [(side, row)]) for side, row in places]
    return found, f"more examples match; -n {2 * selection.n} prints more" if more else ""


def _extreme(prepared: PreparedData, selection: Selection) -> tuple[list[InspectedRow], str]:
    """The rows of all sources, or of one, that are most what was asked for."""
    side = selection.split or "train"
    survey, seed = SplitStats(prepared.directory, side), prepared.manifest["fingerprint"]
    chosen = [selection.source] if selection.source is not None else survey.sources
    if selection.worst == "truncated":
        account = ledger_view.sample_ledger(_ledger(prepared), seed, kept=selection.n)
        account.truncated = {source: lines for source, lines in account.truncated.items() if source in chosen}
        indices = gallery.truncated_examples(survey, account)[: selection.n]
    else:
        indices = gallery.top_rows(survey, chosen, KINDS[selection.worst], selection.n, seed)
    rows = [survey.row(index) for index in indices]
    lines = ledger_view.find_lines(_ledger(prepared), {(row.source, row.where) for row in rows})
    found = [InspectedRow(lines.get((row.source, row.where)), [(side, row)]) for row in rows]
    if rows:
        return found, ""
    return found, f"no row of {side} was truncated" if selection.worst == "truncated" and len(
        survey
    ) else f"{side} has no rows"


def _matching(ledger: Path, text: str, selection: Selection) -> Iterator[Line]:
    """The ledger's lines whose place holds a text, of the source and split asked for."""
    inside = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
    for raw in ledger_view.ledger_lines(ledger):
        if inside in raw:
            line = json.loads(raw)
            fits = selection.source in (None, line["source"]) and selection.split in (None, line["split"])
            if fits and text in line["where"]:
                yield line


def _with_examples(prepared: PreparedData, lines: Sequence[Line], selection: Selection) -> list[InspectedRow]:
    """The lines with their examples."""
    found = {(line["source"], line["where"]): InspectedRow(line, []) for line in lines}
    for side in SIDES if selection.split is None else (selection.split,):
        survey = SplitStats(prepared.directory, side)
        for place, indices in survey.find(set(found)).items():
            found[place].examples.extend((side, row) for row in map(survey.row, indices))
    return list(found.values())


def _ledger(prepared: PreparedData) -> Path:
    return prepared.directory / "ledger.jsonl"
