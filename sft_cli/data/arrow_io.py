"""Write Arrow files: one row after another in batches, or a whole table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft_cli.utils.atomic import atomic_path

BATCH_ROWS = 1000
"""Rows of a record batch."""


class ArrowWriter:
    """Appends rows to an Arrow file; a context manager.

    Args:
        file: The new file.
        schema: The columns of a row.
        compressed: Whether to compress with LZ4; an uncompressed file is read without a copy.
    """

    def __init__(self, file: Path, schema: Any, *, compressed: bool) -> None:
        import pyarrow

        options = pyarrow.ipc.IpcWriteOptions(compression="lz4" if compressed else None)
        self._schema, self._sink = schema, pyarrow.OSFile(str(file), "wb")
        self._writer = pyarrow.ipc.new_file(self._sink, schema, options=options)
        self._pending: list[Sequence[Any]] = []

    def __enter__(self) -> "ArrowWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, row: Sequence[Any]) -> None:
        """Append one row: its values in the order of the columns."""
        self._pending.append(row)
        if len(self._pending) == BATCH_ROWS:
            self._flush()

    def add_table(self, table: Any) -> None:
        """Append a table of the same schema."""
        self._flush()
        self._writer.write_table(table)

    def close(self) -> None:
        """Write the last batch and close the file."""
        self._flush()
        self._writer.close()
        self._sink.close()

    def _flush(self) -> None:
        """Write the pending rows as a record batch."""
        import pyarrow

        if not self._pending:
            return
        columns = zip(*self._pending, strict=True)
        arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._pending = []


def write_table(file: Path, table: Any) -> None:
    """Write a table to an Arrow file atomically."""
    with atomic_path(file) as new, ArrowWriter(new, table.schema, compressed=True) as writer:
        writer.add_table(table)
