"""`sft inspect`: rows of a prepared directory as coloured tokens, each with its line of the ledger."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_cli.config.keys.valid_keys import nearest
from sft_cli.console import say
from sft_cli.data.prepared import Prepared, Side, open_prepared
from sft_cli.errors import SftError
from sft_cli.escape import one_line
from sft_cli.report import gallery, ledger_view, terminal, words
from sft_cli.report.ledger_view import Line
from sft_cli.report.split_stats import ExampleRow, Survey
from sft_cli.report.token_pieces import TokenReader

SHOWN = 600
"""Tokens printed of a row that was not asked for by name."""
AMBIGUOUS = 3
"""Rows of one place that are named in an error."""
SIDES: tuple[Side, ...] = ("train", "validation")


@dataclass(frozen=True, slots=True)
class Found:
    """One row: its line of the ledger (None where there is none) and its examples."""

    line: Line | None
    examples: list[tuple[Side, ExampleRow]]


def inspect_command(arguments: Sequence[str], plain: bool) -> None:
    """Body of ``sft inspect prepared=DIR [row=…|where=…|text=…|worst=…] [source=…] [n=3] [split=…] [--plain]``."""
    ask = words.read(arguments)
    prepared = open_prepared(ask.prepared)
    reader = TokenReader.of(prepared.directory, prepared.manifest)
    _check_source(ask, prepared)
    if ask.row is not None:
        found, remark = [_by_index(prepared, ask) if ask.row.isdecimal() else _by_place(prepared, ask)], ""
    elif ask.where is not None:
        found, remark = _by_part(prepared, ask)
    elif ask.text is not None:
        found, remark = _by_text(prepared, ask, ask.text, reader)
    else:
        found, remark = _extreme(prepared, ask)
    texts = ledger_view.texts(prepared.directory / "dropped.jsonl")
    with terminal.until_nobody_reads():
        printer = terminal.Printer(plain)
        for one in found:
            printer.ledger_line(one.line)
            if one.line is not None and (text := texts.get((one.line["source"], one.line["where"]))):
                printer.dropped(text)
            for side, row in one.examples:
                limit = SHOWN if ask.row is None and ask.text is None else len(row.ids)
                printer.example(row, side, reader.excerpt(row.ids, row.trained, limit))
        if remark:
            say(f"\n{remark}")


def _check_source(ask: words.Ask, prepared: Prepared) -> None:
    """Refuse the name of a source that is not there."""
    names = list(prepared.manifest["sources"])
    if ask.source is not None and ask.source not in names:
        meant = nearest(ask.source, names)
        raise SftError(
            where=f"source={ask.source}",
            problem="the prepared data have no such source",
            fix=f"did you mean source={meant}?" if meant else f"the sources are {', '.join(names)}",
        )


def _by_index(prepared: Prepared, ask: words.Ask) -> Found:
    """The example of a number."""
    assert ask.row is not None
    side, index = ask.split or "train", int(ask.row)
    survey = Survey(prepared.directory, side)
    if index >= len(survey):
        held = f"has {len(survey):,} examples, numbered from 0" if len(survey) else "has no examples"
        raise SftError(
            where=f"row={ask.row}",
            problem=f"the split {side} {held}",
            fix="name one of them, or row=FILE:LINE for a place",
        )
    row = survey.row(index)
    place = (row.source, row.where)
    return Found(ledger_view.find(_ledger(prepared), {place}).get(place), [(side, row)])


def _by_place(prepared: Prepared, ask: words.Ask) -> Found:
    """The row of a place: of exactly this one, or of the only one that ends in it behind a slash."""
    assert ask.row is not None
    exact, ending, first = [], [], None
    for line in _matching(_ledger(prepared), ask.row, ask):
        first = first or line
        for kept, fits in ((exact, line["where"] == ask.row), (ending, line["where"].endswith(f"/{ask.row}"))):
            if fits and len(kept) < AMBIGUOUS:
                kept.append(line)
    named = exact or ending
    if len(named) == 1:
        return _with_examples(prepared, named, ask)[0]
    if named:
        places = ", ".join(one_line(f"{line['where']} of {line['source']}") for line in named)
        problem, fix = f"several rows are there: {places}", f"where={ask.row} prints them"
    elif first is not None:
        problem, fix = "no row is exactly there", f"did you mean row={one_line(first['where'])}?"
    else:
        problem, fix = "the ledger has no row there", "where=PART searches for a part of a place such as rows.jsonl:17"
    raise SftError(where=f"row={ask.row}", problem=problem, fix=fix)


def _by_part(prepared: Prepared, ask: words.Ask) -> tuple[list[Found], str]:
    """The first rows whose place holds a text, and how many more there are."""
    assert ask.where is not None
    lines, more = [], 0
    for line in _matching(_ledger(prepared), ask.where, ask):
        if len(lines) < ask.n:
            lines.append(line)
        else:
            more += 1
    if not lines:
        raise SftError(
            where=f"where={ask.where}",
            problem="no row has that in its place" + (f" in {ask.split}" if ask.split else ""),
            fix="places look like rows.jsonl:17; sft inspect without where= shows some",
        )
    remark = f"{more:,} more rows match; n={ask.n + more} prints all" if more else ""
    return _with_examples(prepared, lines, ask), remark


def _by_text(
    prepared: Prepared, ask: words.Ask, pattern: re.Pattern[str], reader: TokenReader
) -> tuple[list[Found], str]:
    """The first examples whose text holds what was asked for, and whether there are more."""
    places, more = list[tuple[Side, ExampleRow]](), False
    for side in SIDES if ask.split is None else (ask.split,):
        survey = Survey(prepared.directory, side)
        for index in range(len(survey)) if ask.source is None else survey.of(ask.source):
            row = survey.row(int(index))
            if pattern.search(reader.text(row.ids)) is None:
                continue
            if len(places) == ask.n:
                more = True
                break
            places.append((side, row))
    if not places:
        raise SftError(
            where=f"text={pattern.pattern}",
            problem="it is in no example" + (f" of {ask.split}" if ask.split else ""),
            fix="text= is a regular expression over the text that the tokens decode to, template and all",
        )
    lines = ledger_view.find(_ledger(prepared), {(row.source, row.where) for _, row in places})
    found = [Found(lines.get((row.source, row.where)), [(side, row)]) for side, row in places]
    return found, f"more examples match; n={2 * ask.n} prints more" if more else ""


def _extreme(prepared: Prepared, ask: words.Ask) -> tuple[list[Found], str]:
    """The rows of all sources, or of one, that are most what was asked for."""
    side = ask.split or "train"
    survey, seed = Survey(prepared.directory, side), prepared.manifest["fingerprint"]
    chosen = [ask.source] if ask.source is not None else survey.sources
    if ask.worst == "truncated":
        account = ledger_view.take_account(_ledger(prepared), seed, kept=ask.n)
        account.truncated = {source: lines for source, lines in account.truncated.items() if source in chosen}
        indices = gallery.truncated(survey, account)[: ask.n]
    else:
        indices = gallery.most(survey, chosen, words.KINDS[ask.worst], ask.n, seed)
    rows = [survey.row(index) for index in indices]
    lines = ledger_view.find(_ledger(prepared), {(row.source, row.where) for row in rows})
    found = [Found(lines.get((row.source, row.where)), [(side, row)]) for row in rows]
    if rows:
        return found, ""
    return found, f"no row of {side} was truncated" if ask.worst == "truncated" and len(
        survey
    ) else f"{side} has no rows"


def _matching(ledger: Path, text: str, ask: words.Ask) -> Iterator[Line]:
    """The ledger's lines whose place holds a text, of the source and split asked for."""
    inside = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
    for raw in ledger_view.lines(ledger):
        if inside in raw:
            line = json.loads(raw)
            fits = ask.source in (None, line["source"]) and ask.split in (None, line["split"])
            if fits and text in line["where"]:
                yield line


def _with_examples(prepared: Prepared, lines: Sequence[Line], ask: words.Ask) -> list[Found]:
    """The lines with their examples."""
    found = {(line["source"], line["where"]): Found(line, []) for line in lines}
    for side in SIDES if ask.split is None else (ask.split,):
        survey = Survey(prepared.directory, side)
        for place, indices in survey.find(set(found)).items():
            found[place].examples.extend((side, row) for row in map(survey.row, indices))
    return list(found.values())


def _ledger(prepared: Prepared) -> Path:
    return prepared.directory / "ledger.jsonl"
