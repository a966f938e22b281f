"""Cut a source into slices that any process can read; in order they hold its rows in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sft_cli.data.row_errors import RowError
from sft_cli.data.sources import columnar, file_state, text_files
from sft_cli.data.sources.lines import COMPRESSED, WHOLE_FILE, File, FileSpan
from sft_cli.data.sources.locate import FileGroup
from sft_cli.data.sources.read_options import ReadOptions
from sft_cli.data.sources.select import LINES, read_records, row_location
from sft_cli.data.sources.text_files import Record
from sft_cli.errors import SftError
from sft_cli.types import Row

if TYPE_CHECKING:
    from datasets.table import Table

SLICE_BYTES = 16 * 1024 * 1024
"""Approximate bytes of a slice; a file or row group that cannot be cut may be larger."""

LINE_READERS = {
    ".jsonl": text_files.json_lines_with_offsets,
    ".ndjson": text_files.json_lines_with_offsets,
    LINES: text_files.text_lines_with_offsets,
}
"""Kinds whose lines are rows, and their readers, which also return the end position of each line."""
ROW_GROUP_READERS = {".parquet": columnar.parquet_row_groups, ".arrow": columnar.arrow_row_groups}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read.

    Attributes:
        where: Its location, as of a ``Row``.
        source: Name of the source in the mix.
        error: The error.
    """

    where: str
    source: str
    error: RowError


@dataclass(frozen=True, slots=True)
class FilePiece:
    """A file or a part of one.

    Attributes:
        label: Prefix of every row's ``where``.
        file: The file.
        kind: The suffix that selects the reader.
        stamp: The stamp that the file must have.
        span: The part to read, known to hold a row; None reads the whole file.
        size: Approximate bytes to read.
        options: How the file is read.
    """

    label: str
    file: Path
    kind: str
    stamp: file_state.FileStamp
    span: FileSpan | None
    size: int
    options: ReadOptions


@dataclass(frozen=True, slots=True)
class TablePiece:
    """Rows of a hub data set, whose files are memory-mapped where they are read.

    Attributes:
        label: Prefix of every row's ``where``.
        table: The rows; pickled as the names of its files.
        before: Number of the last row before them.
        size: Approximate bytes to read.
    """

    label: str
    table: "Table" = field(repr=False)
    before: int
    size: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Pieces that are read together, in order."""

    pieces: tuple[FilePiece | TablePiece, ...]

    @property
    def size(self) -> int:
        """Approximate bytes to read, for a progress bar."""
        return sum(piece.size for piece in self.pieces)


def read_slice(rows: Slice, source: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a slice, in any process; a row that cannot be read becomes a ``BadRow``.

    Args:
        rows: The slice.
        source: Name of the source in the mix.
    """
    for piece in rows.pieces:
        records = _table_records(piece) if isinstance(piece, TablePiece) else _file_records(piece)
        kind = "" if isinstance(piece, TablePiece) else piece.kind
        for number, values in records:
            where = row_location(kind, piece.label, number)
            yield BadRow(where, source, values) if isinstance(values, RowError) else Row(values, where, source)


def slice_files(groups: Sequence[FileGroup]) -> list[Slice]:
    """Return located files as slices: cut where their kind allows it, small neighbors combined."""
    return _combine_small([piece for group in groups for piece in _file_pieces(group)])


def slice_table(label: str, table: "Table") -> list[Slice]:
    """Return a loaded hub data set as slices of whole batches of rows."""
    if not table.num_rows:
        raise no_rows_error(label)
    per_row = max(1, table.nbytes // table.num_rows)
    step = max(1, SLICE_BYTES // per_row // columnar.BATCH_ROWS) * columnar.BATCH_ROWS
    starts = range(0, table.num_rows, step)
    tables = [(start, table.slice(start, min(step, table.num_rows - start))) for start in starts]
    return [Slice((TablePiece(label, group, start, group.num_rows * per_row),)) for start, group in tables]


def file_digests(group: FileGroup) -> list[list[str]]:
    """Return label and BLAKE2b of each file of a group, and record their stamps, which must not change from now on."""
    digests = []
    for file in group.files:
        assert isinstance(file, Path)
        label = group.label if len(group.files) == 1 else f"{group.label}/{file.name}"
        digests.append(
            [
                label,
                file_state.scan_file(
                    file, file_state.record_stamp(file), group.label, _range_bytes(group, file)
                ).digest,
            ]
        )
    return digests


def numbered_files(group: FileGroup) -> Iterator[tuple[Path, list[columnar.RowGroup], int]]:
    """Yield the files of a columnar group, their row groups, and the number of the last row before each file."""
    before = 0
    for file in group.files:
        assert isinstance(file, Path)
        row_groups = ROW_GROUP_READERS[group.kind](file, group.label)
        yield file, row_groups, before
        before += sum(row_group.rows for row_group in row_groups)


def no_rows_error(label: str) -> SftError:
    """Return the error for a file or data set without rows."""
    return SftError(where=label, problem="the source holds no rows", fix="write rows into it or remove it from the mix")


def _file_pieces(group: FileGroup) -> list[FilePiece]:
    """Return the pieces of a group, cut as far as its kind allows."""
    for file in group.files:
        assert isinstance(file, Path)
        file_state.check_unchanged(file, file_state.recorded_stamp(file), group.label)
    if group.kind in ROW_GROUP_READERS:
        pieces = [
            piece
            for file, row_groups, before in numbered_files(group)
            for piece in _by_row_groups(group, file, row_groups, before)
        ]
    else:
        (file,) = group.files
        assert isinstance(file, Path)
        stamp, size = file_state.recorded_stamp(file), _range_bytes(group, file)
        if size is None:
            return [FilePiece(group.label, file, group.kind, stamp, None, stamp.size, group.options)]
        spans = file_state.scan_file(file, stamp, group.label, size).ranges
        pieces = [
            FilePiece(group.label, file, group.kind, stamp, span, (span.stop or stamp.size) - span.start, group.options)
            for span in spans
        ]
    if not pieces:
        raise no_rows_error(group.label)
    return pieces


def _by_row_groups(
    group: FileGroup, file: Path, row_groups: Sequence[columnar.RowGroup], before: int
) -> Iterator[FilePiece]:
    """Yield pieces of consecutive row groups or record batches that hold rows."""
    start, rows, size = 0, 0, 0
    for index, row_group in enumerate(row_groups, start=1):
        rows, size = rows + row_group.rows, size + row_group.size
        if size >= SLICE_BYTES or index == len(row_groups):
            if rows:
                span = FileSpan(start, index, before)
                yield FilePiece(
                    group.label, file, group.kind, file_state.recorded_stamp(file), span, size, group.options
                )
            start, before, rows, size = index, before + rows, 0, 0


def _combine_small(pieces: Sequence[FilePiece]) -> list[Slice]:
    """Return slices that combine neighboring pieces up to SLICE_BYTES."""
    groups: list[list[FilePiece]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.size > SLICE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.size
    return [Slice(tuple(group)) for group in groups]


def is_plain_lines(kind: str, file: File, options: ReadOptions) -> bool:
    """Return whether lines are rows, neither compressed nor in UTF-16, so that reading can start at any line."""
    return kind in LINE_READERS and file.suffix.lower() not in COMPRESSED and not options.wide


def _range_bytes(group: FileGroup, file: Path) -> int | None:
    """Return the size of a file's line ranges; None if the file is not cut by lines."""
    return SLICE_BYTES if is_plain_lines(group.kind, file, group.options) else None


def _file_records(piece: FilePiece) -> Iterator[Record]:
    """Yield the records of a file piece; the file must not change until the last one is read."""
    file_state.check_unchanged(piece.file, piece.stamp, piece.label)
    empty = True
    try:
        for record in read_records(piece.kind, piece.file, piece.label, piece.options, piece.span or WHOLE_FILE):
            empty = False
            yield record
    except SftError:
        # A file that is being written looks broken: report the change, not the broken content.
        file_state.check_unchanged(piece.file, piece.stamp, piece.label)
        raise
    file_state.check_unchanged(piece.file, piece.stamp, piece.label)
    if empty:
        raise no_rows_error(piece.label)


def _table_records(piece: TablePiece) -> Iterator[Record]:
    """Return the records of a piece of a hub data set."""
    return columnar.batch_records(piece.table.to_batches(), piece.before)
