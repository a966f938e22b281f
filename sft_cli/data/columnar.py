"""Columnar files to rows: Parquet and Arrow, in batches."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_cli.data.readers import Record
from sft_cli.errors import SftError

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1000
"""Rows that exist as Python objects at once."""

Decoder = Callable[[Any], Any]


def parquet(path: Path, label: str) -> Iterator[Record]:
    """Rows of a Parquet file, numbered from 1. Streams by batches."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield from records(file.iter_batches(BATCH_ROWS))
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(label, "Parquet", error) from error


def arrow(path: Path, label: str) -> Iterator[Record]:
    """Rows of an Arrow file, stream or random-access format, numbered from 1. Streams by batches."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pyarrow.ipc.open_file(file)
                yield from records(reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                file.seek(0)
                yield from records(pyarrow.ipc.open_stream(file))
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(label, "Arrow", error) from error


def records(batches: Iterable["pyarrow.RecordBatch"]) -> Iterator[Record]:
    """Rows of record batches as plain Python values, numbered from 1."""
    number = 0
    decoders: dict[str, Decoder] | None = None
    for whole in batches:
        if decoders is None:
            found = {field.name: _decoder(field.type) for field in whole.schema}
            decoders = {name: decode for name, decode in found.items() if decode is not None}
        for start in range(0, whole.num_rows, BATCH_ROWS):
            for values in whole.slice(start, BATCH_ROWS).to_pylist():
                for name, decode in decoders.items():
                    values[name] = decode(values[name])
                number += 1
                yield number, values


def _decoder(kind: "pyarrow.DataType") -> Decoder | None:
    """What turns Arrow's Python values of this type into what was stored; None when nothing is to be done.

    A struct column gives every row every key, with null for those a row never had: such keys are left out again.
    A JSON column (``datasets.Json``) comes as text: it is read.
    """
    from pyarrow import types

    if _is_json(kind):
        return lambda value: None if value is None else json.loads(value)
    if types.is_struct(kind):
        fields = {field.name: _decoder(field.type) for field in kind.fields}  # pyright: ignore
        return lambda value: None if value is None else _present(value, fields)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        decode = _decoder(kind.value_type)  # pyright: ignore
        if decode is not None:
            return lambda value: None if value is None else [decode(element) for element in value]
    return None


def _is_json(kind: "pyarrow.DataType") -> bool:
    """Whether values are JSON texts: Arrow's own type, or the extension ``datasets`` registers under the same name."""
    from pyarrow import BaseExtensionType

    return isinstance(kind, BaseExtensionType) and kind.extension_name == "arrow.json"


def _present(struct: dict[str, Any], fields: dict[str, Decoder | None]) -> dict[str, Any]:
    """The keys of a struct that have a value, decoded."""
    present = {}
    for name, value in struct.items():
        if value is not None:
            decode = fields[name]
            present[name] = value if decode is None else decode(value)
    return present


def _broken(label: str, kind: str, error: Exception) -> SftError:
    return SftError(
        where=label,
        problem=f"cannot be read as {kind}: {str(error).splitlines()[0]}",
        fix="fetch or write the file again; it is incomplete, broken or of another kind",
    )
