"""Sources larger than the disk: rows as they come, nothing stored, in blocks that are shuffled by the seed.

What is read is decided by the seed and the number of rows asked for: the files (or shards of a hub data set) in an
order of the seed, each from its beginning, cut into blocks of ``shuffle_buffer`` rows, each block permuted.
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
from sft_cli.data.sources.lines import File, Span
from sft_cli.data.sources.locate import Part, locate
from sft_cli.data.sources.read_options import How
from sft_cli.data.sources.select import Place, records, shown
from sft_cli.data.sources.source_rows import Split, on_hub, placed
from sft_cli.data.sources.text_files import Record
from sft_cli.errors import SftError
from sft_cli.types import Row

Thing = TypeVar("Thing")
Position = list[Any]
"""Where reading goes on behind a row, as plain JSON values; what it holds is the feed's own."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that were read together.

    Attributes:
        rows: In the order of the seed.
        state: Plain JSON values; given to ``blocks``, it goes on exactly behind this block.
    """

    rows: list[Row | slices.BadRow]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of a source: label, kind and way to read its part, whether that has more files, the rows before it."""

    label: str
    file: File
    kind: str
    how: How
    shard: bool
    before: int


def blocks(
    config: SourceConfig, name: str, split: Split, seed: int, state: dict[str, Any] | None = None
) -> Iterator[Block]:
    """``max_rows`` training rows of a source, or all if there are fewer; held-out rows always all.

    They come from the beginning, or from behind the block of a state.
    """
    assert config.max_rows is not None, "a streamed source needs max_rows; config/rules/data.py sees to it"
    limit = config.max_rows if split == "train" else math.inf
    place = placed(config, name, split)
    number, taken, position = (state["block"], state["rows"], state["position"]) if state else (0, 0, None)
    secret = f"{seed}:{name}:{split}"
    source = _Hub(config, place, secret) if on_hub(config, place) else _Files(place, secret)
    feed = source.records(position)
    while taken < limit:
        rows: list[Row | slices.BadRow] = []
        for (label, (row_number, values)), behind in feed:
            where, position = f"{label}:{row_number}", behind
            rows.append(
                slices.BadRow(where, name, values) if isinstance(values, RowError) else Row(values, where, name)
            )
            if len(rows) == min(config.shuffle_buffer, limit - taken):
                break
        if not rows and taken == 0:
            raise slices.empty(source.label)
        if not rows:
            return
        assert position is not None
        source.unchanged(position)
        random.Random(f"{secret}:block {number}").shuffle(rows)
        number, taken = number + 1, taken + len(rows)
        yield Block(rows, {"block": number, "rows": taken, "position": position})


class _Files:
    """Files, here or on a server. A position is the file's place in the order, the last row's number, its end."""

    def __init__(self, place: Place, secret: str) -> None:
        self.label = shown(place)
        self._entries = _shuffled([entry for part in locate(place, stored=False) for entry in _entries(part)], secret)
        self._stamps = [
            file_state.seen(entry.file) if isinstance(entry.file, Path) else None for entry in self._entries
        ]
        for entry in self._entries:
            if entry.kind == ".json":
                raise SftError(
                    where=entry.label,
                    problem="JSON that is not one object a line is read as a whole, so it cannot be streamed",
                    fix="write it as JSON lines (one object a line, .jsonl), or set stream=false",
                )

    def records(self, position: Position | None) -> Iterator[tuple[tuple[str, Record], Position]]:
        """Labelled records with the position behind each."""
        first, last, end = position or (0, None, 0)
        for index, entry in enumerate(self._entries[first:], start=first):
            none = last is None
            for record, behind in _records(entry, entry.before if last is None else last, end):
                none = False
                yield (entry.label, record), [index, record[0], behind]
            if none and not entry.shard:
                raise slices.empty(entry.label)
            self.unchanged([index])
            last, end = None, 0

    def unchanged(self, position: Position) -> None:
        """Return if the file that is read is the one it was."""
        entry, stamp = self._entries[position[0]], self._stamps[position[0]]
        if isinstance(entry.file, remote.RemoteFile):
            remote.again(entry.file)
        elif stamp is not None:
            file_state.unchanged(entry.file, stamp, entry.label)


class _Hub:
    """A hub data set.

    A position: the shard's place in the order, the state ``datasets`` was in before a batch, the rows of the batch that
    were read, and the number of the last row before it.
    """

    def __init__(self, config: SourceConfig, place: Place, secret: str) -> None:
        self._key = place.key
        self.label, self._data = hub.stream(config, place.split, place.key)
        self._shards = _shuffled(list(range(self._data.num_shards)), secret)

    def records(self, position: Position | None) -> Iterator[tuple[tuple[str, Record], Position]]:
        """Labelled records with the position behind each."""
        first, state, skip, before = position or (0, None, 0, 0)
        for index, shard in enumerate(self._shards[first:], start=first):
            label = self.label if len(self._shards) == 1 else f"{self.label[:-1]}, shard {shard + 1}]"
            for held, number, batch in hub.batches(
                self._data, shard, len(self._shards), state, before, label, self._key
            ):
                for taken, record in enumerate(columnar.records(batch, number), start=1):
                    if taken > skip:
                        yield (label, record), [index, held, taken, number]
                skip = 0
            state, before = None, 0

    def unchanged(self, position: Position) -> None:
        """A commit never changes."""


def _entries(part: Part) -> Iterator[_Entry]:
    """The files of a part."""
    if len(part.files) == 1:
        yield _Entry(part.label, part.files[0], part.kind, part.how, False, 0)
    else:
        for file, _, before in slices.numbered(part):
            yield _Entry(part.label, file, part.kind, part.how, True, before)


def _records(entry: _Entry, last: int, end: int) -> Iterator[tuple[Record, int]]:
    """The records behind number ``last``, whose line ends at ``end``; with the end of each, 0 where there are no lines.

    Packed files, tables of text and documents are read from their beginning and passed over up to there.
    """
    if slices.is_plain_lines(entry.kind, entry.file, entry.how):
        for number, values, behind in slices.PLAIN_LINES[entry.kind](
            entry.file, entry.label, Span(end, None, last), entry.how
        ):
            yield (number, values), behind
        return
    if entry.kind in slices.UNITS:
        start, before = 0, entry.before
        for unit in slices.UNITS[entry.kind](entry.file, entry.label):
            if before + unit.rows > last:
                break
            start, before = start + 1, before + unit.rows
        found = records(entry.kind, entry.file, entry.label, entry.how, Span(start, None, before))
    else:
        found = records(entry.kind, entry.file, entry.label, entry.how)
    for record in dropwhile(lambda record: record[0] <= last, found):
        yield record, 0


def _shuffled(things: list[Thing], secret: str) -> list[Thing]:
    """In an order of the seed."""
    random.Random(f"{secret}:files").shuffle(things)
    return things
