"""What the filters leave of the rows: the store of a source, seen through the steps of cleaning."""

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
    """What one filter said about a row; ``reason`` is set if it dropped it, ``measure`` is what ``score`` is of."""

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
        directory: Where its findings lie: ``found.arrow`` and ``replaced.arrow``, ascending by row number.
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
        """Numbers of the rows that were dropped."""
        reasons = _table(self.directory / "found.arrow").column("reason")
        return self.rows[reasons.is_valid().to_numpy()]

    @cached_property
    def clusters(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the rows that belong to a cluster, and the clusters' numbers."""
        numbers = _table(self.directory / "found.arrow").column("cluster")
        there = numbers.is_valid().to_numpy()
        return self.rows[there], numbers.drop_null().to_numpy().astype(np.int64)

    def notes(self, start: int, stop: int) -> Iterator[tuple[int, FilterNote]]:
        """What was said about the rows from ``start`` to before ``stop``."""
        low, high = np.searchsorted(self.rows, [start, stop]).tolist()
        for found in _table(self.directory / "found.arrow").slice(low, high - low).to_pylist():
            yield found["row"], FilterNote(self.name, found["reason"], found["detail"], found["score"], self.score_name)


@dataclass(frozen=True)
class RowReader:
    """Reads conversations by row number, as the filters left them; small enough to be sent to other processes.

    Attributes:
        stores: Directory and source of each store.
        starts: Number of the first row of each store.
        replaced: Files of rows that filters rewrote, the latest last.
        offset: What is added to a row's number to find it in those files.
    """

    stores: tuple[tuple[Path, str], ...]
    starts: tuple[int, ...]
    replaced: tuple[Path, ...] = ()
    offset: int = 0

    def conversations(self, rows: NDArray[np.int64]) -> Iterator[Conversation]:
        """The conversations of these rows, ascending."""
        which = np.searchsorted(np.asarray(self.starts), rows, side="right") - 1
        for store in np.unique(which).tolist():
            numbers = rows[which == store]
            directory, source = self.stores[store]
            overlay = self._overlay(numbers)
            for row, stored in zip(
                numbers.tolist(), _open_store(directory, source).read(numbers - self.starts[store]), strict=True
            ):
                assert stored.conversation is not None, f"{stored.where} was never a conversation"
                new = overlay.get(row)
                yield stored.conversation if new is None else codec.decode_conversation(new, stored.where, source)

    def _overlay(self, rows: NDArray[np.int64]) -> dict[int, bytes]:
        """The rewritten ones among some rows; later filters saw what earlier ones wrote."""
        found: dict[int, bytes] = {}
        for file in self.replaced:
            table, numbers = _replaced(file)
            at = np.searchsorted(numbers, rows + self.offset)
            inside = at < len(numbers)
            hits = np.flatnonzero(inside)[numbers[at[inside]] == (rows + self.offset)[inside]]
            payloads = table.column("payload").take(at[hits]).to_pylist() if len(hits) else []
            found.update(zip(rows[hits].tolist(), payloads, strict=True))
        return found

    def rewritten_digest(self, rows: NDArray[np.int64]) -> str:
        """Digest of what filters wrote in the place of some rows; empty if nothing."""
        found = hashlib.sha256()
        total = 0
        for start in range(0, len(rows), 10_000):
            for row, payload in sorted(self._overlay(rows[start : start + 10_000]).items()):
                found.update(b"%d %d " % (row, len(payload)) + payload)
                total += 1
        return found.hexdigest() if total else ""


@dataclass(frozen=True)
class FilteredRows:
    """One store behind the filters; its rows are numbered from 0.

    Attributes:
        store: The rows as they were converted.
        offset: Number of its first row over all stores.
        kept: ``(rows,)``: whether a row is a conversation and no filter dropped it.
        steps: The filters, in order.
    """

    store: RowStore
    offset: int
    kept: NDArray[np.bool_]
    steps: tuple[FilterResult, ...]

    def reader(self) -> RowReader:
        """Reads its conversations."""
        replaced = tuple(step.directory / "replaced.arrow" for step in self.steps)
        there = tuple(file for file in replaced if file.is_file())
        return RowReader(((self.store.directory, self.store.source),), (0,), there, self.offset)

    def content_key(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """What stands for the content of these rows in the name of a later stage."""
        numbers = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()
        return {
            "store": self.store.directory.name,
            "rows": numbers,
            "rewritten": self.reader().rewritten_digest(rows),
        }

    def notes(self, start: int, stop: int) -> dict[int, list[FilterNote]]:
        """What filters said about the rows from ``start`` to before ``stop``, by row, in the filters' order."""
        found: dict[int, list[FilterNote]] = {}
        for step in self.steps:
            for row, note in step.notes(self.offset + start, self.offset + stop):
                found.setdefault(row - self.offset, []).append(note)
        return found

    def clusters(self) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
        """Of each filter that found clusters: its name, rows of this store, and the numbers of their clusters."""
        for step in self.steps:
            rows, clusters = step.clusters
            mine = (rows >= self.offset) & (rows < self.offset + len(self.store))
            if mine.any():
                yield step.name, rows[mine] - self.offset, clusters[mine]


def combined_reader(stores: Sequence[RowStore], steps: Sequence[FilterResult]) -> RowReader:
    """A reader over several stores, their rows numbered on."""
    starts = np.cumsum([0, *(len(store) for store in stores)])[:-1].tolist()
    replaced = tuple(step.directory / "replaced.arrow" for step in steps)
    there = tuple(file for file in replaced if file.is_file())
    return RowReader(tuple((store.directory, store.source) for store in stores), tuple(starts), there)


@lru_cache(maxsize=16)
def _open_store(directory: Path, source: str) -> RowStore:
    return RowStore(directory, source)


@lru_cache(maxsize=16)
def _replaced(file: Path) -> tuple[Any, NDArray[np.int64]]:
    table = _table(file)
    return table, table.column("row").to_numpy()


@lru_cache(maxsize=32)
def _table(file: Path) -> Any:
    """An Arrow file, memory-mapped."""
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all()
