"""A source cut into slices that any process can read; in order they hold its rows in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sft_cli.data.row_errors import RowError
from sft_cli.data.sources import columnar, file_state, text_files
from sft_cli.data.sources.lines import COMPRESSED, WHOLE, File, Span
from sft_cli.data.sources.locate import Part
from sft_cli.data.sources.read_options import How
from sft_cli.data.sources.select import LINES, place, records
from sft_cli.data.sources.text_files import Record
from sft_cli.errors import SftError
from sft_cli.types import Row

if TYPE_CHECKING:
    from datasets.table import Table

SLICE_BYTES = 16 * 1024 * 1024
"""A slice holds about so much; a file or row group that cannot be cut may be larger."""

PLAIN_LINES = {
    ".jsonl": text_files.json_lines_with_ends,
    ".ndjson": text_files.json_lines_with_ends,
    LINES: text_files.text_lines_with_ends,
}
"""Kinds whose lines are rows, and what reads them with the end of each line."""
UNITS = {".parquet": columnar.parquet_units, ".arrow": columnar.arrow_units}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read.

    Attributes:
        where: Its place, as of a ``Row``.
        source: Name of the source in the mix.
        error: What is wrong with it.
    """

    where: str
    source: str
    error: RowError


@dataclass(frozen=True, slots=True)
class FilePiece:
    """A file or a part of one.

    Attributes:
        label: Stands before the number in every row's ``where``.
        file: Where it is.
        kind: The ending that decides the reader.
        stamp: What the file has to look like.
        span: Which part, known to hold a row; None reads all of it.
        size: About how many bytes are read.
        how: How the file is read.
    """

    label: str
    file: Path
    kind: str
    stamp: file_state.Stamp
    span: Span | None
    size: int
    how: How


@dataclass(frozen=True, slots=True)
class TablePiece:
    """Rows of a hub data set, whose files are mapped into memory where they are read.

    Attributes:
        label: Stands before the number in every row's ``where``.
        table: The rows; in pickle the names of its files.
        before: The number of the last row before them.
        size: About how many bytes are read.
    """

    label: str
    table: "Table" = field(repr=False)
    before: int
    size: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Pieces that are read together, one after the other."""

    pieces: tuple[FilePiece | TablePiece, ...]

    @property
    def size(self) -> int:
        """About how many bytes are read, for a progress bar."""
        return sum(piece.size for piece in self.pieces)


def read_slice(piece: Slice, name: str) -> Iterator[Row | BadRow]:
    """The rows of a slice under the name of their source, in any process. A broken row comes as ``BadRow``."""
    for part in piece.pieces:
        found = _table_records(part) if isinstance(part, TablePiece) else _file_records(part)
        kind = "" if isinstance(part, TablePiece) else part.kind
        for number, values in found:
            where = place(kind, part.label, number)
            yield BadRow(where, name, values) if isinstance(values, RowError) else Row(values, where, name)


def of_parts(parts: Sequence[Part]) -> list[Slice]:
    """Located files as slices: cut where a kind of file can be, small neighbours together."""
    return _together([piece for part in parts for piece in _pieces(part)])


def of_table(label: str, table: "Table") -> list[Slice]:
    """A loaded hub data set as slices of whole batches of rows."""
    if not table.num_rows:
        raise empty(label)
    per_row = max(1, table.nbytes // table.num_rows)
    step = max(1, SLICE_BYTES // per_row // columnar.BATCH_ROWS) * columnar.BATCH_ROWS
    starts = range(0, table.num_rows, step)
    parts = [(start, table.slice(start, min(step, table.num_rows - start))) for start in starts]
    return [Slice((TablePiece(label, part, start, part.num_rows * per_row),)) for start, part in parts]


def digest(part: Part) -> list[list[str]]:
    """Label and BLAKE2b of each file of a part, which from now on have to stay as they are."""
    found = []
    for file in part.files:
        assert isinstance(file, Path)
        label = part.label if len(part.files) == 1 else f"{part.label}/{file.name}"
        found.append(
            [label, file_state.survey(file, file_state.look(file), part.label, _range_bytes(part, file)).digest]
        )
    return found


def numbered(part: Part) -> Iterator[tuple[Path, list[columnar.Unit], int]]:
    """The files of a columnar part, what each can be cut into, and the number of the last row before it."""
    before = 0
    for file in part.files:
        assert isinstance(file, Path)
        units = UNITS[part.kind](file, part.label)
        yield file, units, before
        before += sum(unit.rows for unit in units)


def empty(label: str) -> SftError:
    """The error for a file or data set without rows."""
    return SftError(where=label, problem="it holds no rows", fix="write rows into it or leave it out of the mix")


def _pieces(part: Part) -> list[FilePiece]:
    """A part cut as far as its kind allows."""
    for file in part.files:
        assert isinstance(file, Path)
        file_state.unchanged(file, file_state.seen(file), part.label)
    if part.kind in UNITS:
        found = [piece for file, units, before in numbered(part) for piece in _by_units(part, file, units, before)]
    else:
        (file,) = part.files
        assert isinstance(file, Path)
        stamp, size = file_state.seen(file), _range_bytes(part, file)
        if size is None:
            return [FilePiece(part.label, file, part.kind, stamp, None, stamp.size, part.how)]
        spans = file_state.survey(file, stamp, part.label, size).ranges
        found = [
            FilePiece(part.label, file, part.kind, stamp, span, (span.stop or stamp.size) - span.start, part.how)
            for span in spans
        ]
    if not found:
        raise empty(part.label)
    return found


def _by_units(part: Part, file: Path, units: Sequence[columnar.Unit], before: int) -> Iterator[FilePiece]:
    """Runs of row groups or record batches; those without rows make none."""
    start, rows, size = 0, 0, 0
    for index, unit in enumerate(units, start=1):
        rows, size = rows + unit.rows, size + unit.size
        if size >= SLICE_BYTES or index == len(units):
            if rows:
                span = Span(start, index, before)
                yield FilePiece(part.label, file, part.kind, file_state.seen(file), span, size, part.how)
            start, before, rows, size = index, before + rows, 0, 0


def _together(pieces: Sequence[FilePiece]) -> list[Slice]:
    """Neighbours in one slice as long as it stays within SLICE_BYTES."""
    groups: list[list[FilePiece]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.size > SLICE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.size
    return [Slice(tuple(group)) for group in groups]


def is_plain_lines(kind: str, file: File, how: How) -> bool:
    """Whether the lines of a file are rows and neither packed nor in UTF-16, so that it can be read from any line."""
    return kind in PLAIN_LINES and file.suffix.lower() not in COMPRESSED and not how.wide


def _range_bytes(part: Part, file: Path) -> int | None:
    """How large the ranges of a file are; None for what is not cut by lines."""
    return SLICE_BYTES if is_plain_lines(part.kind, file, part.how) else None


def _file_records(piece: FilePiece) -> Iterator[Record]:
    """The records of a file piece; the file must be the one that was cut, to the end."""
    file_state.unchanged(piece.file, piece.stamp, piece.label)
    none = True
    try:
        for record in records(piece.kind, piece.file, piece.label, piece.how, piece.span or WHOLE):
            none = False
            yield record
    except SftError:
        # A file that is being written looks broken; the reason is told.
        file_state.unchanged(piece.file, piece.stamp, piece.label)
        raise
    file_state.unchanged(piece.file, piece.stamp, piece.label)
    if none:
        raise empty(piece.label)


def _table_records(piece: TablePiece) -> Iterator[Record]:
    """The records of a piece of a hub data set."""
    return columnar.records(piece.table.to_batches(), piece.before)
