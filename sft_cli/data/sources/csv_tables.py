"""The header and the rows of CSV tables: names, and cells under them."""

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.row_errors import RowError, short_repr
from sft_cli.data.sources.read_options import ReadOptions
from sft_cli.errors import SftError

DELIMITERS = (";", "\t", ",", "|")
"""What files that end in .csv separate fields by."""
UNNAMED = "Unnamed: "
"""What pandas calls a column without a name, before its number from 0."""


def column_names(cells: list[str], where: str, delimiter: str, options: ReadOptions) -> list[str]:
    """Column names, all different; a column without one, such as pandas' index, gets the name pandas gives it."""
    others = [mark for mark in DELIMITERS if mark != delimiter and mark in cells[0]]
    if len(cells) == 1 and others:
        key = f"{options.source}.delimiter"
        raise SftError(
            where=where,
            problem=f"the header is one column, {short_repr(cells[0])}; its delimiter seems to be {others[0]!r}",
            fix=format_override(key, "tab" if others[0] == "\t" else others[0]),
        )
    names = [name or f"{UNNAMED}{number}" for number, name in enumerate(cells)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        fix = "give each column its own name"
        raise SftError(where=where, problem=f"the header has {twice[0]!r} twice", fix=fix)
    if not any(cells):
        raise SftError(where=where, problem="the header names no column", fix="write the names into the first line")
    return names


def row_from_cells(names: list[str], cells: list[str], where: str, delimiter: str) -> dict[str, str] | RowError:
    """The cells under their names; a column without a name may only hold numbers, as an index does."""
    if len(cells) != len(names):
        what = {"\t": "tabs", ",": "commas"}.get(delimiter, repr(delimiter))
        return RowError(
            where=where,
            reason="wrong number of fields",
            problem=f"{len(cells)} fields under a header of {len(names)}",
            fix=f'put fields that hold {what} or line breaks between quotation marks ("…")',
        )
    for number, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if name == f"{UNNAMED}{number}" and cell.strip() and not cell.strip().isdecimal():
            return RowError(
                where=where,
                reason="column without a name",
                problem=f"column {number + 1} has no name in the header and holds {short_repr(cell)}",
                fix="write its name into the first line",
            )
    return dict(zip(names, cells, strict=True))
