"""Read rows from columnar files, Parquet and Arrow, in batches."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from sft_cli.data.sources.lines import WHOLE_FILE, File, FileSpan
from sft_cli.data.sources.remote import RemoteFile
from sft_cli.data.sources.text_files import Record
from sft_cli.errors import SftError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 1000
"""Rows that exist as Python objects at once."""

Decoder = Callable[[Any], Any]


class RowGroup(NamedTuple):
    """The rows, and bytes in memory, of a unit by which a columnar file is cut: a row group or record batch."""

    rows: int
    size: int


def read_parquet(file: File, label: str, span: FileSpan = WHOLE_FILE) -> Iterator[Record]:
    """Yield the rows of a Parquet file, numbered from 1, batch by batch; a span counts row groups."""
    with _open_parquet(file, label) as opened:
        groups = range(opened.num_row_groups)[span.start : span.stop]
        yield from batch_records(opened.iter_batches(BATCH_ROWS, row_groups=list(groups)), span.before)


def parquet_row_groups(file: File, label: str) -> list[RowGroup]:
    """Return the row groups of a Parquet file."""
    with _open_parquet(file, label) as opened:
        groups = (opened.metadata.row_group(index) for index in range(opened.num_row_groups))
        return [RowGroup(group.num_rows, group.total_byte_size) for group in groups]


def read_arrow(file: File, label: str, span: FileSpan = WHOLE_FILE) -> Iterator[Record]:
    """Yield the rows of an Arrow file, in stream or file format, numbered from 1; a span counts record batches."""
    with _open_arrow(file, label) as batches:
        yield from batch_records(islice(batches, span.start, span.stop), span.before)


def arrow_row_groups(file: File, label: str) -> list[RowGroup]:
    """Return the record batches of an Arrow file."""
    with _open_arrow(file, label) as batches:
        return [RowGroup(batch.num_rows, batch.nbytes) for batch in batches]


@contextmanager
def _open_parquet(file: File, label: str) -> Iterator["ParquetFile"]:
    """Open a Parquet file."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ExitStack() as stack:
            source = file if isinstance(file, Path) else stack.enter_context(_seekable(file))
            yield stack.enter_context(ParquetFile(source))
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable(label, "Parquet", error) from error


@contextmanager
def _open_arrow(file: File, label: str) -> Iterator[Iterator["pyarrow.RecordBatch"]]:
    """Yield the record batches of a file, each read on demand."""
    import pyarrow

    try:
        with ExitStack() as stack:
            local = isinstance(file, Path)
            opened = pyarrow.memory_map(str(file)) if local else pyarrow.PythonFile(_seekable(file), "r")
            stack.enter_context(opened)
            if opened.read(6) == b"ARROW1":
                reader = pyarrow.ipc.open_file(opened)
                yield (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                opened.seek(0)
                yield iter(pyarrow.ipc.open_stream(opened))
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable(label, "Arrow", error) from error


def batch_records(batches: Iterable["pyarrow.RecordBatch"], before: int = 0) -> Iterator[Record]:
    """Yield the rows of record batches as Python values, numbered from ``before + 1``."""
    number = before
    decoders: dict[str, Decoder] | None = None
    for batch in batches:
        batch.validate(full=True)  # pyarrow would follow offsets that point outside a broken file
        if decoders is None:
            all_decoders = {field.name: _decoder(field.type) for field in batch.schema}
            decoders = {name: decode for name, decode in all_decoders.items() if decode is not None}
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for values in batch.slice(start, BATCH_ROWS).to_pylist():
                for name, decode in decoders.items():
                    values[name] = decode(values[name])
                number += 1
                yield number, values


def _seekable(file: RemoteFile) -> BinaryIO:
    """Return a remote file opened at any position."""
    opened = file.open()
    if not opened.seekable():
        problem = f"the server of {file.path!r} sends no byte ranges, which reading such a file needs"
        raise SftError(where=file.key, problem=problem, fix=f"{file.key.rpartition('.')[0]}.stream=false downloads it")
    return opened


def _decoder(kind: "pyarrow.DataType") -> Decoder | None:
    """Return the function that restores the stored values of an Arrow type; None if its values need no change.

    A struct column gives every row every key, with null for missing ones: null keys are removed. A map gives pairs,
    which become an object. A JSON column (``datasets.Json``) gives text, which is parsed.
    """
    from pyarrow import types

    if _is_json(kind):
        return lambda value: None if value is None else json.loads(value)
    if types.is_struct(kind):
        fields = {field.name: _decoder(field.type) for field in kind.fields}  # pyright: ignore
        return lambda value: None if value is None else _without_nulls(value, fields)
    if types.is_map(kind):
        decode = _decoder(kind.item_type) or _identity  # pyright: ignore
        return lambda value: None if value is None else {key: decode(entry) for key, entry in value}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        decode = _decoder(kind.value_type)  # pyright: ignore
        if decode is not None:
            return lambda value: None if value is None else [decode(element) for element in value]
    return None


def _identity(value: Any) -> Any:
    """Return the value unchanged."""
    return value


def _is_json(kind: "pyarrow.DataType") -> bool:
    """Return whether values are JSON texts: Arrow's own type, or the extension type of ``datasets``."""
    from pyarrow import BaseExtensionType

    return isinstance(kind, BaseExtensionType) and kind.extension_name == "arrow.json"


def _without_nulls(struct: dict[str, Any], fields: dict[str, Decoder | None]) -> dict[str, Any]:
    """Return the keys of a struct that have a value, decoded."""
    present = {}
    for name, value in struct.items():
        if value is not None:
            decode = fields[name]
            present[name] = value if decode is None else decode(value)
    return present


def _unreadable(label: str, kind: str, error: Exception) -> SftError:
    """Return the error for a file that cannot be read."""
    return SftError(
        where=label,
        problem=f"cannot be read as {kind}: {(str(error) or type(error).__name__).splitlines()[0]}",
        fix="download or write the file again; it is incomplete, broken or of another type",
    )
