"""Read the rows of a source through the filters: without dropped rows, and with replaced ones."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_cli.data import codec
from sft_cli.data.row_store import RowStore
from sft_cli.types import Conversation


class FilterNote(NamedTuple):
    """The note of one filter about a row; ``reason`` is set if the filter dropped it."""

    filter: str
    reason: str | None
    detail: str
    score: float | None
    score_name: str


@dataclass(frozen=True)
class FilterResult:
    """A finished filter.

    Attributes:
        name: Its name.
        score_name: Name of its scores.
        directory: The directory of its findings: ``found.arrow`` and ``replaced.arrow``, ascending by row number.
    """

    name: str
    score_name: str
    directory: Path

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """``(findings,)``: numbers of the rows, over all stores."""
        return _table(self.directory / "found.arrow").column("row").to_numpy()

    @cached_property
    def dropped(self) -> NDArray[np.int64]:
        """Numbers of the dropped rows."""
        reasons = _table(self.directory / "found.arrow").column("reason")
        return self.rows[reasons.is_valid().to_numpy()]

    @cached_property
    def clusters(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the rows in clusters, and the numbers of their clusters."""
        numbers = _table(self.directory / "found.arrow").column("cluster")
        in_cluster = numbers.is_valid().to_numpy()
        return self.rows[in_cluster], numbers.drop_null().to_numpy().astype(np.int64)

    def notes(self, start: int, stop: int) -> Iterator[tuple[int, FilterNote]]:
        """Yield the notes about the rows from ``start`` to before ``stop``."""
        low, high = np.searchsorted(self.rows, [start, stop]).tolist()
        for finding in _table(self.directory / "found.arrow").slice(low, high - low).to_pylist():
            yield (
                finding["row"],
                FilterNote(self.name, finding["reason"], finding["detail"], finding["score"], self.score_name),
            )


@dataclass(frozen=True)
class RowReader:
    """Reads conversations by row number, after the filters; small enough to be sent to other processes.

    Attributes:
        stores: Directory and source of each store.
        starts: Number of the first row of each store.
        replaced: Files of rows that filters replaced, the latest last.
        offset: Offset from a row's number to its number in those files.
    """

    stores: tuple[tuple[Path, str], ...]
    starts: tuple[int, ...]
    replaced: tuple[Path, ...] = ()
    offset: int = 0

    def conversations(self, rows: NDArray[np.int64]) -> Iterator[Conversation]:
        """Yield the conversations of these rows, ascending."""
        store_of = np.searchsorted(np.asarray(self.starts), rows, side="right") - 1
        for store in np.unique(store_of).tolist():
            numbers = rows[store_of == store]
            directory, source = self.stores[store]
            overlay = self._overlay(numbers)
            for row, stored in zip(
                numbers.tolist(), _open_store(directory, source).read(numbers - self.starts[store]), strict=True
            ):
                assert stored.conversation is not None, f"{stored.where} is not a conversation"
                replacement = overlay.get(row)
                yield (
                    stored.conversation
                    if replacement is None
                    else codec.decode_conversation(replacement, stored.where, source)
                )

    def _overlay(self, rows: NDArray[np.int64]) -> dict[int, bytes]:
        """Return the replaced rows among some rows, by number; a later filter replaces the rows of earlier ones."""
        payload_of_row: dict[int, bytes] = {}
        for file in self.replaced:
            table, numbers = _replaced(file)
            positions = np.searchsorted(numbers, rows + self.offset)
            inside = positions < len(numbers)
            hits = np.flatnonzero(inside)[numbers[positions[inside]] == (rows + self.offset)[inside]]
            payloads = table.column("payload").take(positions[hits]).to_pylist() if len(hits) else []
            payload_of_row.update(zip(rows[hits].tolist(), payloads, strict=True))
        return payload_of_row

    def rewritten_digest(self, rows: NDArray[np.int64]) -> str:
        """Return a digest of the replacements of some rows; empty if there are none."""
        digest = hashlib.sha256()
        total = 0
        for start in range(0, len(rows), 10_000):
            for row, payload in sorted(self._overlay(rows[start : start + 10_000]).items()):
                digest.update(b"%d %d " % (row, len(payload)) + payload)
                total += 1
        return digest.hexdigest() if total else ""


@dataclass(frozen=True)
class FilteredRows:
    """One store after the filters; its rows are numbered from 0.

    Attributes:
        store: The converted rows.
        offset: Number of its first row over all stores.
        kept: ``(rows,)`` whether a row is a conversation that no filter dropped.
        steps: The filters, in order.
    """

    store: RowStore
    offset: int
    kept: NDArray[np.bool_]
    steps: tuple[FilterResult, ...]

    def reader(self) -> RowReader:
        """Return the reader of its conversations."""
        replaced = tuple(step.directory / "replaced.arrow" for step in self.steps)
        existing = tuple(file for file in replaced if file.is_file())
        return RowReader(((self.store.directory, self.store.source),), (0,), existing, self.offset)

    def content_key(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Return the identity of the content of these rows, for the key of a later stage."""
        numbers = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()
        return {
            "store": self.store.directory.name,
            "rows": numbers,
            "rewritten": self.reader().rewritten_digest(rows),
        }

    def notes(self, start: int, stop: int) -> dict[int, list[FilterNote]]:
        """Return the notes of filters about the rows from ``start`` to before ``stop``, by row, in filter order."""
        notes: dict[int, list[FilterNote]] = {}
        for step in self.steps:
            for row, note in step.notes(self.offset + start, self.offset + stop):
                notes.setdefault(row - self.offset, []).append(note)
        return notes

    def clusters(self) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield for each filter with clusters its name, rows of this store, and the numbers of their clusters."""
        for step in self.steps:
            rows, clusters = step.clusters
            own = (rows >= self.offset) & (rows < self.offset + len(self.store))
            if own.any():
                yield step.name, rows[own] - self.offset, clusters[own]


def combined_reader(stores: Sequence[RowStore], steps: Sequence[FilterResult]) -> RowReader:
    """Return a reader over several stores, with consecutive row numbers."""
    starts = np.cumsum([0, *(len(store) for store in stores)])[:-1].tolist()
    replaced = tuple(step.directory / "replaced.arrow" for step in steps)
    existing = tuple(file for file in replaced if file.is_file())
    return RowReader(tuple((store.directory, store.source) for store in stores), tuple(starts), existing)


@lru_cache(maxsize=16)
def _open_store(directory: Path, source: str) -> RowStore:
    """Return a store, cached."""
    return RowStore(directory, source)


@lru_cache(maxsize=16)
def _replaced(file: Path) -> tuple[Any, NDArray[np.int64]]:
    """Return a table of replaced rows, and its row numbers."""
    table = _table(file)
    return table, table.column("row").to_numpy()


@lru_cache(maxsize=32)
def _table(file: Path) -> Any:
    """Return an Arrow file, memory-mapped."""
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all()
