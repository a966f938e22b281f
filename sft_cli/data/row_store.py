"""Store converted rows on disk as Arrow batches, read by row number without holding more than a batch."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_cli.data import codec
from sft_cli.data.arrow_io import BATCH_ROWS, ArrowWriter
from sft_cli.data.row_errors import RowError, RowExcluded
from sft_cli.types import Conversation
from sft_cli.utils.atomic import atomic_path

SLICE_ROWS = 50
"""Rows of a batch that are decoded at once; a divisor of the batch."""
ERROR_COLUMNS = ("reason", "error_where", "problem", "fix", "text", "excluded_by")
"""Columns of a row's error (``RowError``, ``RowExcluded``), all null for a conversation."""
COLUMNS = ("where", "payload", "prompt", "content", "group", *ERROR_COLUMNS)
"""Location; conversation; digests of the prompt, the conversation and its group; error."""


class StoredRow(NamedTuple):
    """A stored row: a conversation, or an error."""

    where: str
    conversation: Conversation | None
    error: RowError | None


def write_rows(file: Path, rows: Iterator[tuple[str, Conversation | RowError]]) -> int:
    """Write one part, complete or not at all, and return its number of rows."""
    import pyarrow

    total = 0
    digest = pyarrow.binary(codec.DIGEST_BYTES)
    text = pyarrow.string()
    types = (text, pyarrow.binary(), digest, digest, digest, *[text] * len(ERROR_COLUMNS))
    schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
    with atomic_path(file) as new, ArrowWriter(new, schema, compressed=True) as writer:
        for where, row in rows:
            writer.add(_values(where, row))
            total += 1
    return total


def _values(where: str, row: Conversation | RowError) -> tuple[Any, ...]:
    """Return a row in the order of ``COLUMNS``."""
    if isinstance(row, RowError):
        excluded_by = row.by if isinstance(row, RowExcluded) else None
        error = (row.reason, row.where, row.problem, row.fix, row.row, excluded_by)
        placeholder = codec.content_digest(where.encode())
        return where, None, placeholder, placeholder, None, *error
    payload = codec.encode_conversation(row)
    group = None if row.group is None else codec.content_digest(f"{row.source}\0{row.group}".encode())
    return where, payload, codec.prompt_digest(row), codec.content_digest(payload), group, *[None] * len(ERROR_COLUMNS)


class RowStore:
    """The rows of one split of one source, in order.

    Attributes:
        directory: The directory of its parts.
        source: Name of the source in the mix.
    """

    def __init__(self, directory: Path, source: str) -> None:
        self.directory, self.source = directory, source
        self._files = sorted(directory.glob("part-*.arrow"))
        self._starts = np.cumsum([0, *(_num_rows(file) for file in self._files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digests(self, column: str) -> NDArray[np.bytes_]:
        """Return ``(rows,)`` S16: one digest per row; zeros where there is none."""
        arrays = [np.zeros(0, f"S{codec.DIGEST_BYTES}")]
        for file in self._files:
            for batch in _batches(file, [column]):
                values = batch.column(0)
                filled = values.fill_null(bytes(codec.DIGEST_BYTES)) if values.null_count else values
                arrays.append(np.frombuffer(filled.buffers()[1], dtype=f"S{codec.DIGEST_BYTES}", count=len(filled)))
        return np.concatenate(arrays)

    def is_valid(self) -> NDArray[np.bool_]:
        """Return ``(rows,)`` whether a row is a conversation."""
        return self._map_column("reason", lambda reasons: reasons.is_null())

    def is_excluded(self) -> NDArray[np.bool_]:
        """Return ``(rows,)`` whether the config leaves a row out on purpose."""
        return self._map_column("excluded_by", lambda filters: filters.is_valid())

    def payload_sizes(self) -> NDArray[np.int64]:
        """Return ``(rows,)`` bytes of each stored conversation; 0 where there is none."""

        def lengths(payloads: Any) -> NDArray[np.int32]:
            return np.diff(np.frombuffer(payloads.buffers()[1], np.int32, len(payloads) + 1))

        return self._map_column("payload", lengths, np.int64)

    def _map_column(self, column: str, function: Callable[[Any], Any], kind: Any = np.bool_) -> NDArray[Any]:
        """Return ``(rows,)`` the result of a function on the values of a column, batch by batch."""
        arrays = [np.zeros(0, kind)]
        for file in self._files:
            arrays += [np.asarray(function(batch.column(0)), kind) for batch in _batches(file, [column])]
        return np.concatenate(arrays)

    def read(self, rows: NDArray[np.int64]) -> Iterator[StoredRow]:
        """Yield the rows with these numbers; ascending order is the cheapest."""
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        loaded: tuple[int, int] = (-1, -1)
        rows_of_slice: list[tuple[str, bytes | None, RowError | None]] = []
        for part, place in zip(parts.tolist(), (rows - self._starts[parts]).tolist(), strict=True):
            if loaded != (part, place // SLICE_ROWS):
                loaded = part, place // SLICE_ROWS
                batch, start = divmod(place - place % SLICE_ROWS, BATCH_ROWS)
                rows_of_slice = _rows_of(_load_batch(self._files[part], batch).slice(start, SLICE_ROWS))
            where, payload, error = rows_of_slice[place % SLICE_ROWS]
            conversation = None if payload is None else codec.decode_conversation(payload, where, self.source)
            yield StoredRow(where, conversation, error)

    def locations(self) -> Iterator[tuple[str, RowError | None]]:
        """Yield every row's location and its error, in order."""
        for file in self._files:
            for batch in _batches(file, ["where", *ERROR_COLUMNS]):
                yield from zip(batch.column("where").to_pylist(), _errors_of(batch), strict=True)


def _rows_of(batch: Any) -> list[tuple[str, bytes | None, RowError | None]]:
    """Return location, conversation and error of the rows of a batch."""
    where, payloads = batch.column("where").to_pylist(), batch.column("payload").to_pylist()
    return list(zip(where, payloads, _errors_of(batch), strict=True))


def _errors_of(batch: Any) -> list[RowError | None]:
    """Return the error of each row of a batch, None for a conversation."""
    if batch.column("reason").null_count == batch.num_rows:
        return [None] * batch.num_rows
    columns = [batch.column(name).to_pylist() for name in ERROR_COLUMNS]
    return [None if values[0] is None else _error(*values) for values in zip(*columns, strict=True)]


def _error(reason: str, where: str, problem: str, fix: str, text: str, excluded_by: str | None) -> RowError:
    """Return the error of a row from its ``ERROR_COLUMNS``."""
    if excluded_by is None:
        error = RowError(where=where, reason=reason, problem=problem, fix=fix)
    else:
        error = RowExcluded(where=where, reason=reason, problem=problem, fix=fix, by=excluded_by)
    error.row = text
    return error


def _num_rows(file: Path) -> int:
    """Return the number of rows of a part."""
    return sum(batch.num_rows for batch in _batches(file, ["reason"]))


def _batches(file: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Yield the batches of a part, with only these columns decompressed."""
    import pyarrow

    options = pyarrow.ipc.IpcReadOptions(included_fields=[COLUMNS.index(name) for name in columns])
    with pyarrow.memory_map(str(file)) as source:
        reader = pyarrow.ipc.open_file(source, options=options)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


@lru_cache(maxsize=4)
def _load_batch(file: Path, batch: int) -> Any:
    """Return location, conversation and error of one batch; a few batches are cached for reads of neighbors."""
    import pyarrow

    fields = [COLUMNS.index(name) for name in ("where", "payload", *ERROR_COLUMNS)]
    options = pyarrow.ipc.IpcReadOptions(included_fields=fields)
    with pyarrow.memory_map(str(file)) as source:
        return pyarrow.ipc.open_file(source, options=options).get_batch(batch)
