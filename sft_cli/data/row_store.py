"""Converted rows on disk: parts of Arrow batches, read by row number without holding more than a batch."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_cli.data import codec
from sft_cli.data.row_errors import LeftOut, RowError
from sft_cli.types import Conversation
from sft_cli.utils.atomic import atomic_path

BATCH = 1000
"""Rows of an Arrow batch."""
FEW = 50
"""Rows of a batch that are taken out at once; they make up a whole one."""
COLUMNS = ("where", "payload", "prompt", "content", "group", "error")
"""Place; conversation; digests of prompt, of all of it and of its group; what is wrong with a row that has none."""


class Stored(NamedTuple):
    """A row as it lies in a store: a conversation, or what is wrong."""

    where: str
    conversation: Conversation | None
    error: RowError | None


def write_part(file: Path, rows: Iterator[tuple[str, Conversation | RowError]]) -> int:
    """Write one part, whole or not at all; the number of its rows."""
    import pyarrow

    total = 0
    digest = pyarrow.binary(codec.DIGEST)
    kinds = (pyarrow.string(), pyarrow.binary(), digest, digest, digest, pyarrow.string())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
    with (
        atomic_path(file) as new,
        pyarrow.OSFile(str(new), "wb") as sink,
        pyarrow.ipc.new_file(sink, schema, options=options) as writer,
    ):
        pending: list[tuple[Any, ...]] = []
        for where, row in rows:
            pending.append(_values(where, row))
            total += 1
            if len(pending) == BATCH:
                writer.write_batch(_batch(pending, schema))
                pending = []
        if pending:
            writer.write_batch(_batch(pending, schema))
    return total


def _values(where: str, row: Conversation | RowError) -> tuple[Any, ...]:
    """A row in the order of ``COLUMNS``."""
    if isinstance(row, RowError):
        by = row.by if isinstance(row, LeftOut) else None
        error = json.dumps([by, row.where, row.reason, row.problem, row.fix, row.row], ensure_ascii=False)
        nothing = codec.hashed(where.encode())
        return where, None, nothing, nothing, None, error
    payload = codec.encode(row)
    group = None if row.group is None else codec.hashed(f"{row.source}\0{row.group}".encode())
    return where, payload, codec.prompt_digest(row), codec.hashed(payload), group, None


def _batch(rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    import pyarrow

    columns = zip(*rows, strict=True)
    return pyarrow.record_batch(
        [pyarrow.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )


class RowStore:
    """The rows of one side of one source, in order.

    Attributes:
        directory: Where its parts lie.
        source: Name of the source in the mix.
    """

    def __init__(self, directory: Path, source: str) -> None:
        self.directory, self.source = directory, source
        self._files = sorted(directory.glob("part-*.arrow"))
        self._starts = np.cumsum([0, *(_num_rows(file) for file in self._files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digests(self, column: str) -> NDArray[np.bytes_]:
        """``(rows,)`` S16: one digest per row; zeros where there is none."""
        found = [np.zeros(0, f"S{codec.DIGEST}")]
        for file in self._files:
            for batch in _batches(file, [column]):
                values = batch.column(0)
                filled = values.fill_null(bytes(codec.DIGEST)) if values.null_count else values
                found.append(np.frombuffer(filled.buffers()[1], dtype=f"S{codec.DIGEST}", count=len(filled)))
        return np.concatenate(found)

    def good(self) -> NDArray[np.bool_]:
        """``(rows,)``: whether a row is a conversation."""
        return self._each("error", lambda errors: errors.is_null())

    def left_out(self) -> NDArray[np.bool_]:
        """``(rows,)``: whether the config leaves a row out on purpose."""
        return self._each("error", lambda errors: [isinstance(_error(text), LeftOut) for text in errors.to_pylist()])

    def sizes(self) -> NDArray[np.int64]:
        """``(rows,)``: bytes of each conversation as it is stored; 0 where there is none."""

        def lengths(payloads: Any) -> NDArray[np.int32]:
            return np.diff(np.frombuffer(payloads.buffers()[1], np.int32, len(payloads) + 1))

        return self._each("payload", lengths, np.int64)

    def _each(self, column: str, function: Callable[[Any], Any], kind: Any = np.bool_) -> NDArray[Any]:
        """``(rows,)``: what a function says of the values of a column, batch by batch."""
        found = [np.zeros(0, kind)]
        for file in self._files:
            found += [np.asarray(function(batch.column(0)), kind) for batch in _batches(file, [column])]
        return np.concatenate(found)

    def read(self, rows: NDArray[np.int64]) -> Iterator[Stored]:
        """The rows of these numbers; cheapest in ascending order."""
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        known, found = (-1, -1), []
        for part, place in zip(parts.tolist(), (rows - self._starts[parts]).tolist(), strict=True):
            if known != (part, place // FEW):
                known = part, place // FEW
                batch, start = divmod(place - place % FEW, BATCH)
                found = [column.slice(start, FEW).to_pylist() for column in _loaded(self._files[part], batch)]
            where, payload, error = (values[place % FEW] for values in found)
            yield self._stored(where, payload, error)

    def places(self) -> Iterator[tuple[str, RowError | None]]:
        """Every row's place and what is wrong with it, in order."""
        for file in self._files:
            for batch in _batches(file, ["where", "error"]):
                for where, error in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
                    yield where, _error(error)

    def _stored(self, where: str, payload: bytes | None, error: str | None) -> Stored:
        conversation = None if payload is None else codec.decode(payload, where, self.source)
        return Stored(where, conversation, _error(error))


def _error(text: str | None) -> RowError | None:
    """What is wrong with a row, as it was before it was written."""
    if text is None:
        return None
    by, where, reason, problem, fix, row = json.loads(text)
    if by is None:
        error = RowError(where=where, reason=reason, problem=problem, fix=fix)
    else:
        error = LeftOut(where=where, reason=reason, problem=problem, fix=fix, by=by)
    error.row = row
    return error


def _num_rows(file: Path) -> int:
    return sum(batch.num_rows for batch in _batches(file, ["error"]))


def _batches(file: Path, columns: Sequence[str]) -> Iterator[Any]:
    """The batches of a part, only these columns decompressed."""
    import pyarrow

    options = pyarrow.ipc.IpcReadOptions(included_fields=[COLUMNS.index(name) for name in columns])
    with pyarrow.memory_map(str(file)) as source:
        reader = pyarrow.ipc.open_file(source, options=options)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


@lru_cache(maxsize=4)
def _loaded(file: Path, batch: int) -> tuple[Any, Any, Any]:
    """Place, payload and error of one batch; a few are kept, as neighbours are asked for next."""
    import pyarrow

    options = pyarrow.ipc.IpcReadOptions(included_fields=[0, 1, 5])
    with pyarrow.memory_map(str(file)) as source:
        found = pyarrow.ipc.open_file(source, options=options).get_batch(batch)
    return found.column(0), found.column(1), found.column(2)
