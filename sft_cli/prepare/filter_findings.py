"""What a filter finds, on its way to disk."""

from pathlib import Path
from typing import Any

from sft_cli.clean.base import BATCH, Found
from sft_cli.data import codec
from sft_cli.utils.atomic import fsync


class Writer:
    """Appends findings to ``found.arrow``, and rewritten rows to ``replaced.arrow`` if there are any."""

    def __init__(self, directory: Path) -> None:
        import pyarrow

        number, text = pyarrow.int64(), pyarrow.string()
        self._found = pyarrow.schema(
            {"row": number, "reason": text, "detail": text, "score": pyarrow.float64(), "cluster": number}
        )
        self._replaced = pyarrow.schema({"row": number, "payload": pyarrow.binary()})
        self._directory, self._last = directory, -1
        (directory / "replaced.arrow").unlink(missing_ok=True)  # of a run that was stopped
        self._findings = _Table(directory / "found.arrow", self._found)
        self._rewritten: _Table | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        self._findings.close()
        if self._rewritten is not None:
            self._rewritten.close()

    def write(self, found: Found, row: int) -> None:
        """Append one finding about a row."""
        assert row > self._last, "findings come in ascending order of index"
        self._last = row
        self._findings.add((row, found.reason, found.detail, found.score, found.cluster))
        if found.conversation is not None:
            if self._rewritten is None:
                self._rewritten = _Table(self._directory / "replaced.arrow", self._replaced)
            self._rewritten.add((row, codec.encode(found.conversation)))


class _Table:
    """An Arrow file that is appended to."""

    def __init__(self, file: Path, schema: Any) -> None:
        import pyarrow

        self._file, self._schema, self._sink = file, schema, pyarrow.OSFile(str(file), "wb")
        self._writer = pyarrow.ipc.new_file(self._sink, schema)
        self._pending: list[tuple[Any, ...]] = []

    def add(self, values: tuple[Any, ...]) -> None:
        """Append one row of the table."""
        self._pending.append(values)
        if len(self._pending) == BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        columns = zip(*self._pending, strict=True)
        arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)]
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._pending = []

    def close(self) -> None:
        """Write what is pending, and wait until it is on the disk."""
        if self._pending:
            self._flush()
        self._writer.close()
        self._sink.close()
        fsync(self._file)
