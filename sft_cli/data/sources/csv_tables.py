"""Read the header and the cells of CSV rows."""

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.data.sources.read_options import ReadOptions
from sft_cli.errors import SftError

DELIMITERS = (";", "\t", ",", "|")
"""Delimiters in use in files that end in .csv."""
UNNAMED = "Unnamed: "
"""Pandas' prefix of an unnamed column; its number from 0 follows."""


def column_names(cells: list[str], where: str, delimiter: str, options: ReadOptions) -> list[str]:
    """Return distinct column names; an unnamed column, such as pandas' index, gets pandas' name."""
    others = [mark for mark in DELIMITERS if mark != delimiter and mark in cells[0]]
    if len(cells) == 1 and others:
        key = f"{options.source}.delimiter"
        raise SftError(
            where=where,
            problem=f"the header is one column, {short_repr(cells[0])}; its delimiter seems to be {others[0]!r}",
            fix=format_override(key, "tab" if others[0] == "\t" else others[0]),
        )
    names = [name or f"{UNNAMED}{number}" for number, name in enumerate(cells)]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        fix = "write a name of its own for each column"
        raise SftError(where=where, problem=f"the header has {duplicates[0]!r} twice", fix=fix)
    if not any(cells):
        raise SftError(where=where, problem="the header is empty", fix="write the column names in the first line")
    return names


def row_from_cells(names: list[str], cells: list[str], where: str, delimiter: str) -> dict[str, str] | RowError:
    """Return the cells by column name, or the row's error; an unnamed column may hold only numbers."""
    if len(cells) != len(names):
        characters = {"\t": "tabs", ",": "commas"}.get(delimiter, repr(delimiter))
        return RowError(
            where=where,
            reason="wrong number of fields",
            problem=f"{len(cells)} fields under a header of {len(names)}",
            fix=f'put fields with {characters} or line breaks in double quotes ("…")',
        )
    for number, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if name == f"{UNNAMED}{number}" and cell.strip() and not cell.strip().isdecimal():
            return RowError(
                where=where,
                reason="column without a name",
                problem=f"column {number + 1} has no name in the header, but holds {short_repr(cell)}",
                fix="write its name in the first line",
            )
    return dict(zip(names, cells, strict=True))
