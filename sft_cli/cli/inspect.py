"""``sft inspect``: print rows of prepared data as colored tokens, each with its ledger entry."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sft_cli.errors import SftError
from sft_cli.report.kinds import Worst
from sft_cli.utils.home import expand_home

if TYPE_CHECKING:
    from sft_cli.report.selection import Selection

SHOWN = 600
"""Most tokens printed of a row that was not selected by --row or --text."""


def inspect(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The prepared directory, as sft prepare printed it.", show_default=False),
    ],
    worst: Annotated[
        Worst | None,
        typer.Option(
            "--worst",
            metavar="KIND",
            help="The rows that are most truncated, lowest_share, longest or shortest; random by default.",
        ),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option("--row", metavar="PLACE|N", help="One row, by its place or its example number."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="PART", help="Rows whose place contains this text, such as rows.jsonl:17."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="REGEX", help="Examples whose decoded text matches.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="Most rows to print; 3 by default.")] = None,
    source: Annotated[str | None, typer.Option("--source", metavar="NAME", help="Only rows of this source.")] = None,
    split: Annotated[
        Literal["train", "validation"] | None, typer.Option("--split", help="Only rows of this split.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print marks instead of colors.")] = False,
) -> None:
    """Print rows of prepared data as tokens, colored by loss, with their ledger entry.

    Example: sft inspect prepared --worst longest -n 1
    """
    from sft_cli.report.selection import Selection

    choices = {"--row": row, "--where": where, "--text": text, "--worst": worst}
    selecting = [name for name, value in choices.items() if value is not None]
    if len(selecting) > 1:
        problem, fix = f"{' and '.join(selecting)} both select rows", f"keep one of {', '.join(selecting)}"
        raise SftError(where="sft inspect", problem=problem, fix=fix)
    if row is not None and (unused := [name for name, value in (("--source", source), ("-n", n)) if value is not None]):
        fix = f"remove {' and '.join(unused)}"
        raise SftError(where=unused[0], problem="the option has no effect with --row, which selects one row", fix=fix)
    pattern = _pattern(text) if text is not None else None
    _print(expand_home(directory), Selection(row, where, pattern, worst or "random", source, n or 3, split), plain)


def _print(directory: Path, selection: "Selection", plain: bool) -> None:
    """Print the selected rows."""
    from sft_cli.data.prepared import open_prepared
    from sft_cli.report import ledger_view, terminal
    from sft_cli.report.selection import select
    from sft_cli.report.token_pieces import PreparedTokenReader

    prepared = open_prepared(directory)
    reader = PreparedTokenReader.from_directory(prepared.directory, prepared.manifest)
    rows, remark = select(prepared, selection, reader)
    texts = ledger_view.dropped_texts(prepared.directory / "dropped.jsonl")
    with terminal.ignore_broken_pipe():
        printer = terminal.RowPrinter(plain)
        for row in rows:
            printer.ledger_line(row.line)
            if row.line is not None and (text := texts.get((row.line["source"], row.line["where"]))):
                printer.dropped(text)
            for side, example in row.examples:
                limit = SHOWN if selection.row is None and selection.text is None else len(example.ids)
                printer.example(example, side, reader.excerpt(example.ids, example.trained, limit))
        if remark:
            typer.echo(f"\n{remark}", err=True)


def _pattern(text: str) -> re.Pattern[str]:
    """Return the compiled expression of ``--text``, which ignores case unless it contains a flag."""
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise SftError(
            where=f"--text {text}",
            problem=f"not a regular expression: {error}",
            fix=f"to find the text literally: --text {shlex.quote(re.escape(text))}",
        ) from error
