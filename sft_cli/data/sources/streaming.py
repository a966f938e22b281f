"""Stream sources larger than the disk: rows are not stored, and are shuffled in blocks by the seed.

The seed and the number of rows decide which rows are read: the files (or shards of a hub data set) in a seeded order,
each from its beginning, cut into blocks of ``shuffle_buffer`` rows, each block permuted.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any, TypeVar

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources import columnar, file_state, hub, remote, slices
from sft_cli.data.sources.lines import File, FileSpan
from sft_cli.data.sources.locate import FileGroup, locate_files
from sft_cli.data.sources.read_options import ReadOptions
from sft_cli.data.sources.select import SourceLocation, display_path, read_records
from sft_cli.data.sources.source_rows import is_on_hub, source_location
from sft_cli.data.sources.text_files import Record
from sft_cli.errors import SftError
from sft_cli.types import Row, SplitName

Item = TypeVar("Item")
Position = list[Any]
"""The position after a row from which reading can continue, as JSON values; only the feed interprets it."""


@dataclass(frozen=True, slots=True)
class StreamBlock:
    """Rows that were read together.

    Attributes:
        rows: The rows, in seeded order.
        state: JSON values from which ``stream_blocks`` continues right after this block.
    """

    rows: list[Row | slices.BadRow]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _StreamFile:
    """A file of a source.

    Attributes:
        label: Prefix of every row's ``where``.
        file: The file.
        kind: The suffix that selects the reader.
        options: How the file is read.
        shard: Whether the data set has more files.
        before: Number of the last row before the file.
    """

    label: str
    file: File
    kind: str
    options: ReadOptions
    shard: bool
    before: int


def stream_blocks(
    config: SourceConfig, name: str, split: SplitName, seed: int, state: dict[str, Any] | None = None
) -> Iterator[StreamBlock]:
    """Yield the blocks of ``max_rows`` training rows, or of all held-out rows.

    Args:
        config: The source.
        name: Name of the source in the mix.
        split: The split to read.
        seed: Decides the order.
        state: State of the block to continue after; None starts at the beginning.
    """
    assert config.max_rows is not None, "a streamed source needs max_rows; config/rules/data.py checks it"
    limit = config.max_rows if split == "train" else math.inf
    location = source_location(config, name, split)
    number, taken, position = (state["block"], state["rows"], state["position"]) if state else (0, 0, None)
    seed_key = f"{seed}:{name}:{split}"
    source = _HubFeed(config, location, seed_key) if is_on_hub(config, location) else _FileFeed(location, seed_key)
    feed = source.records(position)
    while taken < limit:
        rows: list[Row | slices.BadRow] = []
        for (label, (row_number, values)), end_position in feed:
            where, position = f"{label}:{row_number}", end_position
            rows.append(
                slices.BadRow(where, name, values) if isinstance(values, RowError) else Row(values, where, name)
            )
            if len(rows) == min(config.shuffle_buffer, limit - taken):
                break
        if not rows and taken == 0:
            raise slices.no_rows_error(source.label)
        if not rows:
            return
        assert position is not None
        source.check_unchanged(position)
        random.Random(f"{seed_key}:block {number}").shuffle(rows)
        number, taken = number + 1, taken + len(rows)
        yield StreamBlock(rows, {"block": number, "rows": taken, "position": position})


class _FileFeed:
    """Reads local or remote files. A position is the file's index, the last row's number and its end."""

    def __init__(self, location: SourceLocation, seed_key: str) -> None:
        self.label = display_path(location)
        self._entries = _shuffled(
            [entry for group in locate_files(location, stored=False) for entry in _stream_files(group)], seed_key
        )
        self._stamps = [
            file_state.recorded_stamp(entry.file) if isinstance(entry.file, Path) else None for entry in self._entries
        ]
        for entry in self._entries:
            if entry.kind == ".json":
                raise SftError(
                    where=entry.label,
                    problem="the file is one JSON document, which is read as a whole and cannot be streamed",
                    fix=f"{location.options.source}.stream=false, or write it as JSON lines (.jsonl)",
                )

    def records(self, position: Position | None) -> Iterator[tuple[tuple[str, Record], Position]]:
        """Yield labelled records, each with the position after it."""
        first, last_number, end = position or (0, None, 0)
        for index, entry in enumerate(self._entries[first:], start=first):
            empty = last_number is None
            for record, end_position in _records(entry, entry.before if last_number is None else last_number, end):
                empty = False
                yield (entry.label, record), [index, record[0], end_position]
            if empty and not entry.shard:
                raise slices.no_rows_error(entry.label)
            self.check_unchanged([index])
            last_number, end = None, 0

    def check_unchanged(self, position: Position) -> None:
        """Check that the file of a position has not changed."""
        entry, stamp = self._entries[position[0]], self._stamps[position[0]]
        if isinstance(entry.file, remote.RemoteFile):
            remote.check_version(entry.file)
        elif stamp is not None:
            file_state.check_unchanged(entry.file, stamp, entry.label)


class _HubFeed:
    """Reads a hub data set.

    A position is the index of the shard in the order, the state of ``datasets`` before a batch, the number of rows of
    the batch that were read, and the number of the last row before the batch.
    """

    def __init__(self, config: SourceConfig, location: SourceLocation, seed_key: str) -> None:
        self._key = location.key
        self.label, self._data = hub.load_stream(config, location.split, location.key)
        self._shards = _shuffled(list(range(self._data.num_shards)), seed_key)

    def records(self, position: Position | None) -> Iterator[tuple[tuple[str, Record], Position]]:
        """Yield labelled records, each with the position after it."""
        first, state, skip, before = position or (0, None, 0, 0)
        for index, shard in enumerate(self._shards[first:], start=first):
            label = self.label if len(self._shards) == 1 else f"{self.label[:-1]}, shard {shard + 1}]"
            for state_before, number, batch in hub.stream_batches(
                self._data, shard, len(self._shards), state, before, label, self._key
            ):
                for taken, record in enumerate(columnar.batch_records(batch, number), start=1):
                    if taken > skip:
                        yield (label, record), [index, state_before, taken, number]
                skip = 0
            state, before = None, 0

    def check_unchanged(self, position: Position) -> None:
        """Do nothing: a commit never changes."""


def _stream_files(group: FileGroup) -> Iterator[_StreamFile]:
    """Yield the files of a group."""
    if len(group.files) == 1:
        yield _StreamFile(group.label, group.files[0], group.kind, group.options, False, 0)
    else:
        for file, _, before in slices.numbered_files(group):
            yield _StreamFile(group.label, file, group.kind, group.options, True, before)


def _records(entry: _StreamFile, last: int, end: int) -> Iterator[tuple[Record, int]]:
    """Yield the records after number ``last``, each with the end of its line (0 for files without lines).

    Compressed files, tables and documents are read from the beginning and skipped up to there.

    Args:
        entry: The file.
        last: Number of the last row that was read.
        end: End of its line.
    """
    if slices.is_plain_lines(entry.kind, entry.file, entry.options):
        for number, values, end_position in slices.LINE_READERS[entry.kind](
            entry.file, entry.label, FileSpan(end, None, last), entry.options
        ):
            yield (number, values), end_position
        return
    if entry.kind in slices.ROW_GROUP_READERS:
        start, before = 0, entry.before
        for row_group in slices.ROW_GROUP_READERS[entry.kind](entry.file, entry.label):
            if before + row_group.rows > last:
                break
            start, before = start + 1, before + row_group.rows
        records = read_records(entry.kind, entry.file, entry.label, entry.options, FileSpan(start, None, before))
    else:
        records = read_records(entry.kind, entry.file, entry.label, entry.options)
    for record in dropwhile(lambda record: record[0] <= last, records):
        yield record, 0


def _shuffled(items: list[Item], seed_key: str) -> list[Item]:
    """Return the items in a seeded order."""
    random.Random(f"{seed_key}:files").shuffle(items)
    return items
