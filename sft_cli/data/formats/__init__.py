"""Formats of rows, in one table; every one becomes a ``Conversation``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sft_cli.data.formats import plain, turns
from sft_cli.data.formats.fields import Fields, take_fields
from sft_cli.data.problems import listing, nearest
from sft_cli.data.types import Conversation, Row
from sft_cli.errors import SftError

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows.

    Attributes:
        required: Columns every row must have.
        optional: Columns a row may have; all others are not read.
        build: From the fields and Alpaca's input separator to the conversation.
        unlike: Columns that speak against the format when it is only guessed.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[Fields, str], Conversation]
    unlike: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "messages": Format(("messages",), ("tools", "system"), turns.messages),
    "sharegpt": Format(("conversations",), ("tools", "system"), turns.sharegpt),
    "alpaca": Format(("instruction", "output"), ("input", "system", "history"), plain.alpaca),
    "prompt_completion": Format(("prompt", "completion"), ("system", "history"), plain.prompt_completion),
    "text": Format(("text",), (), plain.text, unlike=("role",)),
}
"""In the order in which ``auto`` tries them: a file with messages and a rendered text is messages."""

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "messages": ("message", "dialogue", "dialog", "chat"),
    "conversations": ("conversation",),
    "output": ("response", "answer", "completion", "target"),
    "input": ("context",),
    "prompt": ("question", "query", "input", "problem"),
    "completion": ("answer", "response", "output", "solution", "target"),
    "text": ("content", "document"),
}
"""What files call these columns: only to propose a ``columns`` map, never to guess one."""


def convert(row: Row, format: str, columns: Mapping[str, str], input_separator: str) -> Conversation:
    """The conversation of a row, or a ``RowError`` that names its place, the field, the value and the fix."""
    shape = FORMATS[format]
    return shape.build(take_fields(row, shape.required, shape.optional, columns), input_separator)


def choose(format: str, columns: Iterable[str], mapped: Mapping[str, str], source: str) -> str:
    """The format of a source: the one that was named, or for ``auto`` the first whose columns are there.

    Args:
        format: The source's ``format``.
        columns: Columns of the first row.
        mapped: The source's ``columns``: the format's name -> name in the file.
        source: Name of the source, for errors.
    """
    if format == AUTO:
        return detect(columns, mapped, where=f"data.mix.{source}.format")
    if format in FORMATS:
        return format
    near = nearest(format, [AUTO, *FORMATS])
    raise SftError(
        where=f"data.mix.{source}.format",
        problem=f"unknown format {format!r}; known are {listing([AUTO, *FORMATS])}",
        fix=f"did you mean {near}?" if near else "format=auto recognises it from the columns",
    )


def detect(columns: Iterable[str], mapped: Mapping[str, str], where: str = "format=auto") -> str:
    """The first format of the table that knows every mapped name and finds its required columns."""
    present = set(columns)
    able = {name: shape for name, shape in FORMATS.items() if set(mapped) <= {*shape.required, *shape.optional}}
    for name, shape in able.items():
        if all(mapped.get(field, field) in present for field in shape.required) and present.isdisjoint(shape.unlike):
            return name
    known = {field for shape in FORMATS.values() for field in (*shape.required, *shape.optional)}
    unknown = [name for name in mapped if name not in known]
    if unknown:
        problem = f"columns maps {unknown[0]!r}, a name no format reads"
        near = nearest(unknown[0], known)
        fix = f"did you mean {near}?" if near else f"the formats read {listing(sorted(known), limit=20)}"
    else:
        needs = "; ".join(f"{name} needs {_needs(shape)}" for name, shape in FORMATS.items())
        problem = f"no format fits the columns {listing(sorted(present), limit=12) or '(none)'}: {needs}"
        guess = _propose(present, mapped, able.values()) or "{prompt: <question>, completion: <answer>}"
        fix = f"name yours, for example columns={guess}"
    raise SftError(where=where, problem=problem, fix=fix)


def _needs(shape: Format) -> str:
    """``instruction and output``, or ``text and no role``."""
    return " and ".join([*shape.required, *(f"no {name}" for name in shape.unlike)])


def _propose(present: set[str], mapped: Mapping[str, str], shapes: Iterable[Format]) -> str | None:
    """A ``columns`` map under which the first possible format would fit; None when none would."""
    for shape in shapes:
        wanted = {field: (field, *OTHER_NAMES.get(field, ())) for field in (*shape.required, *shape.optional)}
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
