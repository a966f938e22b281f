"""Hold the examples of a split as small arrays, and read single examples on demand; never all texts."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.prepared_writer import IGNORE_INDEX
from sft_cli.types import SplitName

CHUNK = 1000
"""Rows per batch."""


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One stored example.

    Attributes:
        index: Its number in the split.
        where: Location of its row.
        source: Name of its source.
        ids: ``(length,)`` token ids.
        trained: ``(length,)`` whether a token carries loss.
        weights: The distinct weights of its trained tokens, ascending.
    """

    index: int
    where: str
    source: str
    ids: list[int]
    trained: list[bool]
    weights: tuple[float, ...]

    @property
    def num_trained(self) -> int:
        """Number of tokens that carry loss."""
        return sum(self.trained)


class SplitStats:
    """One split of a prepared directory.

    Attributes:
        lengths: ``(rows,)`` tokens of each example.
        trained: ``(rows,)`` tokens of each example that carry loss.
        source_of: ``(rows,)`` index of each example's source in ``sources``.
        sources: Names of the sources, in order of appearance.
    """

    def __init__(self, directory: Path, side: SplitName) -> None:
        from datasets import load_from_disk

        self.side = side
        rows: Any = load_from_disk(str(directory / side))
        self._table = rows.data.table  # memory-mapped
        self._weighted = "loss_weights" in self._table.column_names
        lengths, trained, names = [], [], []
        sources: dict[str, int] = {}
        for batch in _read_batches([file["filename"] for file in rows.cache_files]):
            length, count = _counts(batch.column("labels"))
            lengths.append(length)
            trained.append(count)
            encoded = batch.column("source").dictionary_encode()
            numbers = [sources.setdefault(name, len(sources)) for name in encoded.dictionary.to_pylist()]
            names.append(np.array(numbers, dtype=np.int32)[encoded.indices.to_numpy()])
        empty = np.zeros(0, dtype=np.int32)
        self.lengths: NDArray[np.int32] = np.concatenate([empty, *lengths])
        self.trained: NDArray[np.int32] = np.concatenate([empty, *trained])
        self.source_of: NDArray[np.int32] = np.concatenate([empty, *names])
        self.sources: list[str] = list(sources)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def shares(self) -> NDArray[np.float64]:
        """``(rows,)`` trained tokens by tokens of each example; 0 for an empty one."""
        return self.trained / np.maximum(self.lengths, 1)

    def rows_of_source(self, source: str) -> NDArray[np.int64]:
        """Return the indices of a source's examples."""
        if source not in self.sources:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self.source_of == self.sources.index(source))

    def where(self, index: int) -> str:
        """Return the location of an example's row."""
        return self._table.column("where")[int(index)].as_py()

    def row(self, index: int) -> ExampleRow:
        """Return one example."""
        values: dict[str, Any] = {
            name: self._table.column(name)[int(index)].as_py() for name in self._table.column_names
        }
        trained = [label != IGNORE_INDEX for label in values["labels"]]
        weights = {1.0} if any(trained) else set()
        if self._weighted:
            weights = {w for w, carries in zip(values["loss_weights"], trained, strict=True) if carries}
        return ExampleRow(
            int(index), values["where"], values["source"], values["input_ids"], trained, tuple(sorted(weights))
        )

    def find(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[int]]:
        """Return the indices of the examples of rows given by ``(source, where)``."""
        import pyarrow as pa
        from pyarrow import compute

        indices: dict[tuple[str, str], list[int]] = {}
        options = compute.SetLookupOptions(pa.array(sorted({where for _, where in keys}), type=pa.string()))
        start = 0
        for chunk in self._chunks(("source", "where")):
            for index in np.flatnonzero(
                compute.call_function("is_in", [chunk.column(1)], options).to_numpy(zero_copy_only=False)
            ):
                key = (chunk.column(0)[int(index)].as_py(), chunk.column(1)[int(index)].as_py())
                if key in keys:
                    indices.setdefault(key, []).append(start + int(index))
            start += chunk.num_rows
        return indices

    def _chunks(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield memory-mapped record batches of some short columns."""
        return iter(self._table.select(list(columns)).to_batches(max_chunksize=CHUNK))


def _read_batches(files: Sequence[str]) -> Iterator[Any]:
    """Yield the record batches of files without mapping them, since mapped pages would count as memory in use."""
    from pyarrow import OSFile, ipc

    for file in files:
        with OSFile(file) as source, ipc.open_stream(source) as stream:
            yield from stream


def _counts(labels: Any) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return ``(rows,)`` lengths and ``(rows,)`` trained tokens of a list array."""
    offsets = labels.offsets.to_numpy()
    offsets = offsets - offsets[0]
    carries = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy() != IGNORE_INDEX)])
    return np.diff(offsets).astype(np.int32), np.diff(carries[offsets]).astype(np.int32)
