"""Select rows of prepared data for printing, each with its line of the ledger."""

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

MAX_AMBIGUOUS = 3
"""Rows of one location that an error lists."""
SPLITS: tuple[SplitName, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to select.

    Attributes:
        row: Number of an example in its split, or location of a row; None to select otherwise.
        where: Part of a row's location; None to select otherwise.
        text: Pattern that the decoded tokens must match; None to select otherwise.
        worst: Kind of extreme rows; used if row, where and text are None.
        source: Only rows of this source; None for all.
        n: Maximum number of rows.
        split: The split; None searches locations in both splits, and examples in train.
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
    """One row: its line of the ledger (None if there is none) and its examples."""

    line: Line | None
    examples: list[tuple[SplitName, ExampleRow]]


def select(prepared: PreparedData, selection: Selection, reader: PreparedTokenReader) -> tuple[list[InspectedRow], str]:
    """Return the rows of a selection, and a remark on the rows that it leaves out; an empty remark if none are.

    Raises:
        SftError: The row or source does not exist.
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
    """Refuse an unknown source."""
    names = list(prepared.manifest["sources"])
    if selection.source is not None and selection.source not in names:
        similar = closest_name(selection.source, names)
        raise SftError(
            where=f"--source {selection.source}",
            problem="the prepared data has no such source",
            fix=f"did you mean --source {similar}?" if similar else f"the sources are {', '.join(names)}",
        )


def _by_index(prepared: PreparedData, selection: Selection) -> InspectedRow:
    """Return the example of a number."""
    assert selection.row is not None
    split, index = selection.split or "train", int(selection.row)
    stats = SplitStats(prepared.directory, split)
    if index >= len(stats):
        other = f"--row {len(stats) - 1}" if len(stats) else f"--split {'validation' if split == 'train' else 'train'}"
        content = f"has {len(stats):,} examples, numbered from 0" if len(stats) else "has no examples"
        raise SftError(
            where=f"--row {selection.row}",
            problem=f"the split {split} {content}",
            fix=f"{other}, or --row FILE:LINE for a location",
        )
    row = stats.row(index)
    key = (row.source, row.where)
    return InspectedRow(ledger_view.find_lines(_ledger(prepared), {key}).get(key), [(split, row)])


def _by_place(prepared: PreparedData, selection: Selection) -> InspectedRow:
    """Return the row at a location: an exact match, or the only one that ends with it after a slash."""
    assert selection.row is not None
    exact_matches, suffix_matches, first_line = [], [], None
    for line in _matching(_ledger(prepared), selection.row, selection):
        first_line = first_line or line
        for matches, fits in (
            (exact_matches, line["where"] == selection.row),
            (suffix_matches, line["where"].endswith(f"/{selection.row}")),
        ):
            if fits and len(matches) < MAX_AMBIGUOUS:
                matches.append(line)
    candidates = exact_matches or suffix_matches
    if len(candidates) == 1:
        return _with_examples(prepared, candidates, selection)[0]
    if candidates:
        places = ", ".join(one_line(f"{line['where']} of {line['source']}") for line in candidates)
        problem, fix = f"several rows have this location: {places}", f"--where {selection.row} prints them"
    elif first_line is not None:
        problem, fix = "no row has exactly this location", f"did you mean --row {one_line(first_line['where'])}?"
    else:
        problem, fix = (
            "the ledger has no row with this location",
            "--where PART searches for a part of a location such as rows.jsonl:17",
        )
    raise SftError(where=f"--row {selection.row}", problem=problem, fix=fix)


def _by_part(prepared: PreparedData, selection: Selection) -> tuple[list[InspectedRow], str]:
    """Return the first rows whose location contains a text, and a remark on how many more there are."""
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
            problem="no row has this text in its location" + (f" in {selection.split}" if selection.split else ""),
            fix="locations look like rows.jsonl:17; sft inspect without --where shows some",
        )
    remark = f"{more:,} more rows match; -n {selection.n + more} prints all" if more else ""
    return _with_examples(prepared, lines, selection), remark


def _by_text(
    prepared: PreparedData, selection: Selection, pattern: re.Pattern[str], reader: PreparedTokenReader
) -> tuple[list[InspectedRow], str]:
    """Return the first examples whose text matches, and a remark if there are more.

    Args:
        prepared: The prepared data.
        selection: The selection.
        pattern: The pattern.
        reader: Decodes the tokens.
    """
    matches, more = list[tuple[SplitName, ExampleRow]](), False
    for split in SPLITS if selection.split is None else (selection.split,):
        stats = SplitStats(prepared.directory, split)
        for index in range(len(stats)) if selection.source is None else stats.rows_of_source(selection.source):
            row = stats.row(int(index))
            if pattern.search(reader.text(row.ids)) is None:
                continue
            if len(matches) == selection.n:
                more = True
                break
            matches.append((split, row))
    if not matches:
        raise SftError(
            where=f"--text {pattern.pattern}",
            problem="no example matches" + (f" in {selection.split}" if selection.split else ""),
            fix="--text is a regular expression over the decoded tokens, including the template",
        )
    lines = ledger_view.find_lines(_ledger(prepared), {(row.source, row.where) for _, row in matches})
    rows = [InspectedRow(lines.get((row.source, row.where)), [(split, row)]) for split, row in matches]
    return rows, f"more examples match; -n {2 * selection.n} prints more" if more else ""


def _extreme(prepared: PreparedData, selection: Selection) -> tuple[list[InspectedRow], str]:
    """Return the most extreme rows of the selected kind, of all sources or of one."""
    split = selection.split or "train"
    stats, seed = SplitStats(prepared.directory, split), prepared.manifest["fingerprint"]
    sources = [selection.source] if selection.source is not None else stats.sources
    if selection.worst == "truncated":
        sample = ledger_view.sample_ledger(_ledger(prepared), seed, max_truncated=selection.n)
        sample.truncated = {source: lines for source, lines in sample.truncated.items() if source in sources}
        indices = gallery.truncated_examples(stats, sample)[: selection.n]
    else:
        indices = gallery.top_rows(stats, sources, KINDS[selection.worst], selection.n, seed)
    rows = [stats.row(index) for index in indices]
    lines = ledger_view.find_lines(_ledger(prepared), {(row.source, row.where) for row in rows})
    inspected = [InspectedRow(lines.get((row.source, row.where)), [(split, row)]) for row in rows]
    if rows:
        return inspected, ""
    return inspected, f"no row of {split} was truncated" if selection.worst == "truncated" and len(
        stats
    ) else f"{split} has no rows"


def _matching(ledger: Path, text: str, selection: Selection) -> Iterator[Line]:
    """Yield the lines of the ledger whose location contains a text, of the selected source and split."""
    needle = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
    for raw in ledger_view.ledger_lines(ledger):
        if needle in raw:
            line = json.loads(raw)
            selected = selection.source in (None, line["source"]) and selection.split in (None, line["split"])
            if selected and text in line["where"]:
                yield line


def _with_examples(prepared: PreparedData, lines: Sequence[Line], selection: Selection) -> list[InspectedRow]:
    """Return the lines with their examples."""
    rows = {(line["source"], line["where"]): InspectedRow(line, []) for line in lines}
    for split in SPLITS if selection.split is None else (selection.split,):
        stats = SplitStats(prepared.directory, split)
        for key, indices in stats.find(set(rows)).items():
            rows[key].examples.extend((split, row) for row in map(stats.row, indices))
    return list(rows.values())


def _ledger(prepared: PreparedData) -> Path:
    """Return the path of the ledger."""
    return prepared.directory / "ledger.jsonl"
