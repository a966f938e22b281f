"""Resolve the format of a source: the configured one, or for ``auto`` the first that fits the columns."""

from collections.abc import Iterable, Mapping

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats import plugins
from sft_cli.data.formats.column_advice import METADATA_NAMES, advise_columns
from sft_cli.data.formats.column_names import find_columns, fold_name, similar_column
from sft_cli.data.formats.fields import rename_mapped
from sft_cli.data.formats.registry import FORMATS, Format
from sft_cli.data.row_errors import format_list
from sft_cli.errors import SftError
from sft_cli.utils.entry_points import entry_points_by_name, installed_point
from sft_cli.utils.similar import closest_name

AUTO = "auto"

_UNREADABLE = "check that the content of the file matches its suffix: each line of a .jsonl file is one JSON object"


def resolve_format(format: str, columns: Iterable[str], mapped: Mapping[str, str], source: str) -> str:
    """Return the name of a source's format: one of the table, or of an installed package.

    Args:
        format: The source's ``format``.
        columns: Columns of the first row.
        mapped: The source's ``columns``: the format's name -> name in the file.
        source: Name of the source, for errors.
    """
    where = f"data.mix.{source}.format"
    if format == AUTO:
        return detect_format(columns, mapped, source)
    is_ours = format in FORMATS
    point = installed_point(plugins.GROUP, format, built_in=is_ours, kind="format", where=where)
    if point is not None or is_ours:
        return format
    known = [AUTO, *FORMATS, *entry_points_by_name(plugins.GROUP)]
    near = closest_name(format, known)
    raise SftError(
        where=where,
        problem=f"unknown format {format!r}; known are {format_list(known, limit=30)}",
        fix=f"{where}={near}" if near else f"{where}=auto  # detects it from the columns",
    )


def detect_format(columns: Iterable[str], mapped: Mapping[str, str], source: str = "local") -> str:
    """Return the first format of the table that has every mapped name and finds its required columns.

    Exact names take precedence over names in another letter case.
    """
    present = list(dict.fromkeys(columns))
    candidates = {
        name: row_format
        for name, row_format in FORMATS.items()
        if set(mapped) <= set(row_format.reads) and not row_format.named
    }
    unexplained = set(present) - set(mapped.values())
    for exact in (True, False):
        for name, row_format in candidates.items():
            matched = find_columns(row_format.required, mapped, present)
            exact_match = all(not exact or matched[field] == mapped.get(field, field) for field in matched)
            folded = unexplained if exact else {fold_name(column) for column in unexplained}
            if len(matched) == len(row_format.required) and exact_match and folded.isdisjoint(row_format.conflicting):
                return name
    where = f"data.mix.{source}.format"
    _refuse_unlike(present, mapped, candidates, source)
    known = {field for row_format in FORMATS.values() for field in row_format.reads}
    unknown = next((name for name in mapped if name not in known), None)
    if unknown is not None:
        near, target = closest_name(unknown, known), mapped[unknown]
        fix = (
            rename_mapped(mapped, unknown, near, source)
            if near
            else "`sft formats` lists the formats and the names that they read"
        )
        if unknown in present and target in known:
            right = format_override(f"data.mix.{source}.columns", {target: unknown})
            fix = f"the format's name comes first, the file's second: {right}"
        raise SftError(where=where, problem=f"columns maps {unknown!r}, a name no format reads", fix=fix)
    if not present:
        problem = "no row has columns, so no format can be detected"
        raise SftError(where=where, problem=problem, fix=_UNREADABLE)
    _refuse_absent_columns(present, mapped, source)
    offered = [name for name in candidates if name != "responses"]  # it fits too many files to be proposed
    more, fix = advise_columns(present, mapped, offered, source)
    raise SftError(where=where, problem=f"no format fits the columns {format_list(present, limit=12)}{more}", fix=fix)


def _refuse_absent_columns(present: list[str], mapped: Mapping[str, str], source: str) -> None:
    """Refuse a map of columns that the row does not have, with the map that was probably meant."""
    absent = [name for name, column in mapped.items() if column not in present]
    if not absent:
        return
    right, unused = dict(mapped), [column for column in present if column not in mapped.values()]
    for name in absent:
        guess = similar_column(mapped[name], unused) or similar_column(name, unused)
        others = [column for column in unused if fold_name(column) not in METADATA_NAMES]
        guess = guess or next(iter(others), None)
        if guess is not None:
            right[name] = guess
            unused.remove(guess)
    columns = format_override(f"data.mix.{source}.columns", right)
    raise SftError(
        where=f"data.mix.{source}.format",
        problem=f"columns maps {absent[0]} to {mapped[absent[0]]!r}, which the first row does not have; it has "
        f"{format_list(present, limit=12)}",
        fix=columns
        if right != mapped
        else f"data.mix.{source}.columns={{{absent[0]}: COLUMN}}; `sft formats` lists what each needs",
    )


def _refuse_unlike(
    present: list[str], mapped: Mapping[str, str], candidates: Mapping[str, Format], source: str
) -> None:
    """Refuse columns that fit a question-and-answer format except for one that may be part of each question.

    Formats with an ``input`` for such a column are skipped: ``advise_columns`` proposes to rename the column.

    Args:
        present: The columns.
        mapped: The source's ``columns``.
        candidates: Formats by name.
        source: Name of the source.
    """
    for name, row_format in candidates.items():
        if len(row_format.required) < 2 or "input" in row_format.reads:
            continue
        unread = [
            column
            for column in present
            if column not in mapped.values() and fold_name(column) in row_format.conflicting
        ]
        if unread and len(find_columns(row_format.required, mapped, present)) == len(row_format.required):
            ignored, them = format_override(f"data.mix.{source}.ignore", unread), "it" if len(unread) == 1 else "them"
            raise SftError(
                where=f"data.mix.{source}.format",
                problem=f"the columns fit the format {name}, which does not read {format_list(unread)}:"
                f" the answers may need {them}",
                fix=f"{ignored} leaves {them} out on purpose; `sft formats` shows how a custom format combines columns",
            )


def format_for_fields(names: Iterable[str]) -> Format | None:
    """Return the first format of the table that requires only these names and reads all of them; None for none."""
    available = set(names)
    formats = (row_format for row_format in FORMATS.values() if row_format.required)
    return next(
        (row_format for row_format in formats if set(row_format.required) <= available <= set(row_format.reads)), None
    )
