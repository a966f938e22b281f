"""Columnar files to rows: Parquet and Arrow, in batches."""

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
    """What a columnar file can be cut into, a row group or a record batch: its rows and bytes in memory."""

    rows: int
    size: int


def read_parquet(file: File, label: str, span: FileSpan = WHOLE_FILE) -> Iterator[Record]:
    """Rows of a Parquet file, numbered from 1; a span counts row groups. Streams by batches."""
    with _open_parquet(file, label) as opened:
        groups = range(opened.num_row_groups)[span.start : span.stop]
        yield from batch_records(opened.iter_batches(BATCH_ROWS, row_groups=list(groups)), span.before)


def parquet_row_groups(file: File, label: str) -> list[RowGroup]:
    """The row groups of a Parquet file."""
    with _open_parquet(file, label) as opened:
        groups = (opened.metadata.row_group(index) for index in range(opened.num_row_groups))
        return [RowGroup(group.num_rows, group.total_byte_size) for group in groups]


def read_arrow(file: File, label: str, span: FileSpan = WHOLE_FILE) -> Iterator[Record]:
    """Rows of an Arrow file, stream or random-access format, numbered from 1; a span counts record batches."""
    with _open_arrow(file, label) as batches:
        yield from batch_records(islice(batches, span.start, span.stop), span.before)


def arrow_row_groups(file: File, label: str) -> list[RowGroup]:
    """The record batches of an Arrow file."""
    with _open_arrow(file, label) as batches:
        return [RowGroup(batch.num_rows, batch.nbytes) for batch in batches]


@contextmanager
def _open_parquet(file: File, label: str) -> Iterator["ParquetFile"]:
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
    """The record batches of a file, each read when it is asked for."""
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
    """Rows of record batches as plain Python values, numbered on from ``before``."""
    number = before
    decoders: dict[str, Decoder] | None = None
    for whole in batches:
        whole.validate(full=True)  # offsets that lead outside a broken file would be followed
        if decoders is None:
            found = {field.name: _decoder(field.type) for field in whole.schema}
            decoders = {name: decode for name, decode in found.items() if decode is not None}
        for start in range(0, whole.num_rows, BATCH_ROWS):
            for values in whole.slice(start, BATCH_ROWS).to_pylist():
                for name, decode in decoders.items():
                    values[name] = decode(values[name])
                number += 1
                yield number, values


def _seekable(file: RemoteFile) -> BinaryIO:
    """The bytes of a file on a server, from anywhere in it."""
    opened = file.open()
    if not opened.seekable():
        problem = f"the server of {file.path!r} sends it only from the beginning, and it is read from its end"
        raise SftError(
            where=file.key, problem=problem, fix="set stream=false for this source, so that it is downloaded"
        )
    return opened


def _decoder(kind: "pyarrow.DataType") -> Decoder | None:
    """What turns Arrow's Python values of this type into what was stored; None when nothing is to be done.

    A struct column gives every row every key, with null for those a row never had: such keys are left out again.
    A map comes as pairs: it is an object. A JSON column (``datasets.Json``) comes as text: it is read.
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
    return value


def _is_json(kind: "pyarrow.DataType") -> bool:
    """Whether values are JSON texts: Arrow's own type, or the extension ``datasets`` registers under the same name."""
    from pyarrow import BaseExtensionType

    return isinstance(kind, BaseExtensionType) and kind.extension_name == "arrow.json"


def _without_nulls(struct: dict[str, Any], fields: dict[str, Decoder | None]) -> dict[str, Any]:
    """The keys of a struct that have a value, decoded."""
    present = {}
    for name, value in struct.items():
        if value is not None:
            decode = fields[name]
            present[name] = value if decode is None else decode(value)
    return present


def _unreadable(label: str, kind: str, error: Exception) -> SftError:
    return SftError(
        where=label,
        problem=f"cannot be read as {kind}: {(str(error) or type(error).__name__).splitlines()[0]}",
        fix="fetch or write the file again; it is incomplete, broken or of another kind",
    )
