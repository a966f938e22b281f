"""Which format a source is in: the one that was named, or for ``auto`` the first whose columns are there."""

from collections.abc import Iterable, Mapping

from sft_cli.data.formats import plugins
from sft_cli.data.formats.table import FORMATS, Format
from sft_cli.data.problems import listing, nearest
from sft_cli.errors import SftError

AUTO = "auto"

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "messages": ("message", "dialogue", "dialog", "chat"),
    "conversations": ("dialogs",),
    "output": ("response", "answer", "completion", "target"),
    "input": ("context",),
    "prompt": ("question", "query", "input", "problem"),
    "completion": ("answer", "response", "output", "solution", "target"),
    "text": ("body", "article"),
}
"""What files call these columns: only to propose a ``columns`` map, never to guess one."""

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
        return detect(columns, mapped, where=where)
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


def detect(columns: Iterable[str], mapped: Mapping[str, str], where: str = "format=auto") -> str:
    """The first format of the table that knows every mapped name and finds its required columns."""
    present = set(columns)
    able = {name: shape for name, shape in FORMATS.items() if set(mapped) <= set(shape.reads) and not shape.named}
    unexplained = present - set(mapped.values())
    for name, shape in able.items():
        if all(mapped.get(field, field) in present for field in shape.required) and unexplained.isdisjoint(
            shape.unlike
        ):
            return name
    known = {field for shape in FORMATS.values() for field in shape.reads}
    unknown = [name for name in mapped if name not in known]
    if unknown:
        problem = f"columns maps {unknown[0]!r}, a name no format reads"
        near, turned = nearest(unknown[0], known), mapped[unknown[0]]
        fix = f"did you mean {near}?" if near else "`sft formats` lists the formats and the names they read"
        if unknown[0] in present and turned in known:
            fix = f"the format's name comes first, the file's second: columns={{{turned}: {unknown[0]}}}"
    elif not present:
        problem, fix = "no row can be read as one with columns, so that no format is recognised", _UNREADABLE
    else:
        problem = f"no format fits the columns {listing(sorted(present), limit=12)}"
        shapes = [shape for name, shape in able.items() if name != "responses"]  # fits too much to be a guess
        guess = _propose(present, mapped, shapes) or "{prompt: <question>, completion: <answer>}"
        fix = f"name yours, for example columns={guess}; `sft formats` lists what each format needs"
    raise SftError(where=where, problem=problem, fix=fix)


def shape_of(names: Iterable[str]) -> Format | None:
    """The first format of the table that has all it requires among ``names`` and reads every one of them."""
    given = set(names)
    shapes = (shape for shape in FORMATS.values() if shape.required)
    return next((shape for shape in shapes if set(shape.required) <= given <= set(shape.reads)), None)


def _propose(present: set[str], mapped: Mapping[str, str], shapes: Iterable[Format]) -> str | None:
    """A ``columns`` map under which the first possible format would fit; None when none would."""
    for shape in shapes:
        wanted = {field: (field, *OTHER_NAMES.get(field, ())) for field in shape.reads}
        found = {
            field: next((name for name in names if name in present), None)
            for field, names in wanted.items()
            if mapped.get(field) not in present
        }
        renamed = {field: name for field, name in found.items() if name is not None and name != field}
        if renamed and all(found.get(field, field) is not None for field in shape.required):
            pairs = {**{field: name for field, name in mapped.items() if name in present}, **renamed}
            return "{" + ", ".join(f"{field}: {name}" for field, name in pairs.items()) + "}"
    return None
