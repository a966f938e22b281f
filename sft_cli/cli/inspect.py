"""``sft inspect``: rows of prepared data as coloured tokens, each with its line of the ledger."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sft_cli.errors import SftError
from sft_cli.report.kinds import Worst

if TYPE_CHECKING:
    from sft_cli.report.selection import Selection

SHOWN = 600
"""Tokens printed of a row that was not asked for by name."""


def inspect(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The prepared directory, as sft prepare printed it.", show_default=False),
    ],
    worst: Annotated[
        Worst | None, typer.Option("--worst", help="The rows that are extreme in this; random by default.")
    ] = None,
    row: Annotated[
        str | None,
        typer.Option("--row", metavar="PLACE|N", help="One row, by its place or the number of its example."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="PART", help="Rows whose place holds this, as rows.jsonl:17 does.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="REGEX", help="Examples whose decoded text holds this.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="Rows at most; 3 by default.")] = None,
    source: Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only rows of this source.")] = None,
    split: Annotated[
        Literal["train", "validation"] | None, typer.Option("--split", help="Only rows of this split.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Marks instead of colours.")] = False,
) -> None:
    """Print rows of prepared data as tokens, coloured by loss, with their entry in the ledger.

    Example: sft inspect prepared --worst longest -n 1
    """
    from sft_cli.report.selection import Selection

    choices = {"--row": row, "--where": where, "--text": text, "--worst": worst}
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        problem, fix = f"{' and '.join(given)} each choose the rows", f"keep one of {', '.join(given)}"
        raise SftError(where="sft inspect", problem=problem, fix=fix)
    if row is not None and (idle := [name for name, value in (("--source", source), ("-n", n)) if value is not None]):
        fix = f"leave out {' and '.join(idle)}"
        raise SftError(where=idle[0], problem="it has no effect, --row names one row", fix=fix)
    pattern = _pattern(text) if text is not None else None
    _print(directory.expanduser(), Selection(row, where, pattern, worst or "random", source, n or 3, split), plain)


def _print(directory: Path, selection: "Selection", plain: bool) -> None:
    """Print the rows that are selected."""
    from sft_cli.data.prepared import open_prepared
    from sft_cli.report import ledger_view, terminal
    from sft_cli.report.selection import select
    from sft_cli.report.token_pieces import PreparedTokenReader

    prepared = open_prepared(directory)
    reader = PreparedTokenReader.from_directory(prepared.directory, prepared.manifest)
    found, remark = select(prepared, selection, reader)
    texts = ledger_view.dropped_texts(prepared.directory / "dropped.jsonl")
    with terminal.ignore_broken_pipe():
        printer = terminal.RowPrinter(plain)
        for one in found:
            printer.ledger_line(one.line)
            if one.line is not None and (text := texts.get((one.line["source"], one.line["where"]))):
                printer.dropped(text)
            for side, example in one.examples:
                limit = SHOWN if selection.row is None and selection.text is None else len(example.ids)
                printer.example(example, side, reader.excerpt(example.ids, example.trained, limit))
        if remark:
            typer.echo(f"\n{remark}", err=True)


def _pattern(text: str) -> re.Pattern[str]:
    """The expression of ``--text``; capitals and small letters are the same unless it says otherwise."""
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise SftError(
            where=f"--text {text}",
            problem=f"no regular expression: {error}",
            fix=f"--text {shlex.quote(re.escape(text))} finds it literally",
        ) from error
