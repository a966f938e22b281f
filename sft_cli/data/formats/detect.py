"""Which format a source is in: the one that was named, or for ``auto`` the first whose columns are there."""

from collections.abc import Iterable, Mapping

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats import plugins
from sft_cli.data.formats.column_advice import advise
from sft_cli.data.formats.column_names import find_columns, fold
from sft_cli.data.formats.registry import FORMATS, Format
from sft_cli.data.row_errors import listing, nearest
from sft_cli.errors import SftError

AUTO = "auto"

_UNREADABLE = "check that the file is what its ending says: a line of .jsonl is one JSON object"


def choose(format: str, columns: Iterable[str], mapped: Mapping[str, str], source: str) -> str:
    """The name of a source's format, in the table or of an installed package.

    Args:
        format: The source's ``format``.
        columns: Columns of the first row.
        mapped: The source's ``columns``: the format's name -> name in the file.
        source: Name of the source, for errors.
    """
    where = f"data.mix.{source}.format"
    if format == AUTO:
        return detect(columns, mapped, source)
    points = plugins.installed().get(format, ())
    if len(points) + (format in FORMATS) > 1:
        owners = [*(["sft itself"] if format in FORMATS else []), *(plugins.label(point) for point in points)]
        raise SftError(
            where=where,
            problem=f"more than one format is called {format!r}: {listing(owners)}",
            fix="uninstall all but one of the packages, or rename the entry point",
        )
    if points or format in FORMATS:
        return format
    known = [AUTO, *FORMATS, *plugins.installed()]
    near = nearest(format, known)
    raise SftError(
        where=where,
        problem=f"unknown format {format!r}; known are {listing(known, limit=30)}",
        fix=f"did you mean {near}?" if near else "format=auto recognises it from the columns",
    )


def detect(columns: Iterable[str], mapped: Mapping[str, str], source: str = "local") -> str:
    """The first format of the table that knows every mapped name and finds its required columns.

    Names as they are count before names in other letter case.
    """
    present = list(dict.fromkeys(columns))
    able = {name: shape for name, shape in FORMATS.items() if set(mapped) <= set(shape.reads) and not shape.named}
    unexplained = set(present) - set(mapped.values())
    for exact in (True, False):
        for name, shape in able.items():
            found = find_columns(shape.required, mapped, present)
            there = all(not exact or found[field] == mapped.get(field, field) for field in found)
            folded = unexplained if exact else {fold(column) for column in unexplained}
            if len(found) == len(shape.required) and there and folded.isdisjoint(shape.unlike):
                return name
    where = f"data.mix.{source}.format"
    _refuse_unlike(present, mapped, able, source)
    known = {field for shape in FORMATS.values() for field in shape.reads}
    unknown = next((name for name in mapped if name not in known), None)
    if unknown is not None:
        near, turned = nearest(unknown, known), mapped[unknown]
        fix = f"did you mean {near}?" if near else "`sft formats` lists the formats and the names they read"
        if unknown in present and turned in known:
            right = format_override(f"data.mix.{source}.columns", {turned: unknown})
            fix = f"the format's name comes first, the file's second: {right}"
        raise SftError(where=where, problem=f"columns maps {unknown!r}, a name no format reads", fix=fix)
    if not present:
        problem = "no row can be read as one with columns, so that no format is recognised"
        raise SftError(where=where, problem=problem, fix=_UNREADABLE)
    shapes = [name for name in able if name != "responses"]  # fits too much to be proposed
    more, fix = advise(present, mapped, shapes, source)
    raise SftError(where=where, problem=f"no format fits the columns {listing(present, limit=12)}{more}", fix=fix)


def _refuse_unlike(present: list[str], mapped: Mapping[str, str], able: Mapping[str, Format], source: str) -> None:
    """Refuse columns that a format of question and answer fits, but for one that may be part of each question.

    Where the format has an ``input`` for such a column, renaming is the better advice (``advise``).

    Args:
        present: The columns.
        mapped: The source's ``columns``.
        able: Formats by name.
        source: Name of the source.
    """
    for name, shape in able.items():
        if len(shape.required) < 2 or "input" in shape.reads:
            continue
        beside = [column for column in present if column not in mapped.values() and fold(column) in shape.unlike]
        if beside and len(find_columns(shape.required, mapped, present)) == len(shape.required):
            ignored, them = format_override(f"data.mix.{source}.ignore", beside), "it" if len(beside) == 1 else "them"
            raise SftError(
                where=f"data.mix.{source}.format",
                problem=f"the columns fit the format {name}, which does not read {listing(beside)}:"
                f" the answers may need {them}",
                fix=f"{ignored} leaves {them} out on purpose; `sft formats` shows how a format of your own puts columns"
                " together",
            )


def shape_of(names: Iterable[str]) -> Format | None:
    """The first format of the table that has all it requires among ``names`` and reads every one of them."""
    given = set(names)
    shapes = (shape for shape in FORMATS.values() if shape.required)
    return next((shape for shape in shapes if set(shape.required) <= given <= set(shape.reads)), None)
