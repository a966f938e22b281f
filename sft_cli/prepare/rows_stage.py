"""The first stage: the rows of a source, read and converted once, in a store of their own."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data import row_store
from sft_cli.data.formats import row_converter, unread_columns
from sft_cli.data.formats.row_converter import RowConverter
from sft_cli.data.formats.unread_columns import UnreadColumns
from sft_cli.data.row_errors import RowError, short_json
from sft_cli.data.row_store import RowStore
from sft_cli.data.sources import source_rows, streaming
from sft_cli.data.sources.slices import Slice
from sft_cli.data.sources.source_rows import BadRow
from sft_cli.errors import SftError
from sft_cli.prepare import stage_cache
from sft_cli.progress import Progress, progress
from sft_cli.types import Conversation, Row, SplitName
from sft_cli.utils import workers
from sft_cli.utils.atomic import write_atomic
from sft_cli.utils.hashing import code_digest

CODE = (
    "data.formats", "data.sources", "data.row_errors", "data.codec", "data.arrow_io", "data.row_store", "utils.similar",
    "utils.text", "prepare.rows_stage",
)  # fmt: skip
"""Modules that decide what a row becomes."""
RULES = (
    "format", "columns", "ignore", "delimiter", "encoding", "split", "validation_split", "variables", "placeholders",
    "tags", "scores", "roles", "tree", "stream", "role",
)  # fmt: skip
"""Settings of a source that decide what a row becomes; its files are known by content."""
Converted = tuple[str, Conversation | RowError]


class SourceRows(NamedTuple):
    """What stands for a source from here on.

    Attributes:
        train: Its training rows.
        validation: Its own held-out rows, if it has any.
        format: Its format.
        unread: The columns of all its rows that nothing reads, or that are left out on purpose.
    """

    train: RowStore
    validation: RowStore | None
    format: str
    unread: UnreadColumns


def source_inputs(config: SourceConfig, name: str, separator: str, seed: int) -> dict[str, Any]:
    """Everything the rows of a source depend on."""
    settings = asdict(config)
    streamed = {"max_rows": config.max_rows, "buffer": config.shuffle_buffer, "seed": seed} if config.stream else {}
    return {
        "source": name,
        "rules": {key: settings[key] for key in RULES},
        "input_separator": separator,
        "content": source_rows.source_fingerprint(config, name),
        "package": row_converter.format_package(config),
        "code": code_digest(*CODE),
        **streamed,
    }


def convert_source(
    config: SourceConfig, name: str, separator: str, seed: int, known: dict[str, Any], processes: int
) -> SourceRows:
    """The stores of a source, from the cache where they are there.

    Args:
        config: The source.
        name: Its name in the mix.
        separator: Between instruction and input of Alpaca rows.
        seed: Chooses the rows of a streamed source.
        known: Its ``source_inputs``.
        processes: How many read at once.
    """
    found: list[tuple[RowStore, str]] = []
    unread = UnreadColumns()
    splits: tuple[SplitName, ...] = ("train", "validation") if source_rows.has_validation(config) else ("train",)
    for split in splits:
        with stage_cache.stage_dir("rows", {**known, "split": split}) as (directory, done):
            if not done:
                format, seen = _write_parts(directory, config, name, split, separator, seed, processes)
                stage_cache.mark_done(
                    directory, {"format": format, "columns": seen.to_json(), "inputs": {**known, "split": split}}
                )
        final = stage_cache.final_dir(directory)
        finished = stage_cache.load_result(final)
        unread.join(UnreadColumns.of(finished["columns"]))
        found.append((RowStore(final, name), finished["format"]))
    (train, format), *rest = found
    return SourceRows(train, rest[0][0] if rest else None, format, unread)


def _write_parts(
    directory: Path, config: SourceConfig, name: str, split: SplitName, separator: str, seed: int, processes: int
) -> tuple[str, UnreadColumns]:
    """Write the parts that are not there yet; the name of the format and the account of the columns."""
    if config.stream:
        return _write_stream(directory, config, name, split, separator, seed)
    pieces = source_rows.source_slices(config, name, split)
    columns = first_columns((row for piece in pieces for row in source_rows.read_slice(piece, name)), config.ignore)
    converter = row_converter.make_converter(config, name, separator, columns)
    unread = UnreadColumns()
    done = [number for number in range(len(pieces)) if _account_file(directory, number).is_file()]
    for number in done:
        unread.join(unread_columns.load_unread(_account_file(directory, number)))
        converter.refuse_unread(unread)
    tasks = [(number, piece) for number, piece in enumerate(pieces) if number not in done]
    size, left = (sum(piece.size for piece in some) for some in (pieces, [piece for _, piece in tasks]))
    with progress(f"rows      {name}", share=1 - left / max(1, size)) as shown:
        if converter.needs_all_rows:
            row_store.write_rows(
                _part_file(directory, 0), _convert_all(converter, _with_progress(pieces, name, shown), unread)
            )
            converter.refuse_unread(unread)
        else:
            setup = (directory, config, name, separator, columns)
            written = workers.run(_PartWriter, setup, _PartWriter.write, tasks, processes)
            for (num_rows, seen), (_, piece) in zip(written, tasks, strict=True):
                unread.join(seen)
                converter.refuse_unread(unread)
                left -= piece.size
                shown.advance(num_rows, 1 - left / max(1, size))
    converter.check_ignored(unread, columns)
    return converter.name, unread


def _with_progress(pieces: Sequence[Slice], name: str, shown: Progress) -> Iterator[Row | BadRow]:
    """The rows of all slices, told of as they are read."""
    size, read = sum(piece.size for piece in pieces), 0
    for piece in pieces:
        rows = 0
        for row in source_rows.read_slice(piece, name):
            rows += 1
            yield row
        read += piece.size
        shown.advance(rows, read / max(1, size))


class _PartWriter:
    """Writes parts in a worker process."""

    def __init__(
        self, directory: Path, config: SourceConfig, name: str, separator: str, columns: tuple[str, ...]
    ) -> None:
        self._directory, self._name = directory, name
        self._converter = row_converter.make_converter(config, name, separator, columns)

    def write(self, task: tuple[int, Slice]) -> tuple[int, UnreadColumns]:
        """Write the part of one slice, then the account of its columns: it marks the part as whole."""
        number, piece = task
        rows, unread = source_rows.read_slice(piece, self._name), UnreadColumns()
        num_rows = row_store.write_rows(
            _part_file(self._directory, number), _convert_rows(self._converter, rows, unread)
        )
        write_atomic(_account_file(self._directory, number), json.dumps(unread.to_json()).encode())
        return num_rows, unread


def _write_stream(
    directory: Path, config: SourceConfig, name: str, split: SplitName, separator: str, seed: int
) -> tuple[str, UnreadColumns]:
    """Write a part for each block of a streamed source, going on behind the last one that is there."""
    done = sorted(directory.glob("state-*.json"))
    nothing = {"next": None, "columns": (), "account": UnreadColumns().to_json()}
    before: dict[str, Any] = json.loads(done[-1].read_bytes()) if done else nothing
    number, columns, converter = len(done), tuple(before["columns"]), None
    unread = UnreadColumns.of(before["account"])
    stored = before["next"]["rows"] if done else 0
    with progress(f"rows      {name}", config.max_rows if split == "train" else None, stored) as shown:
        for block in streaming.stream_blocks(config, name, split, seed, before["next"]):
            columns = columns if number else first_columns(block.rows, config.ignore)
            converter = converter or row_converter.make_converter(config, name, separator, columns)
            shown.advance(
                row_store.write_rows(_part_file(directory, number), _convert_rows(converter, block.rows, unread))
            )
            converter.refuse_unread(unread)
            after = json.dumps({"next": block.state, "columns": columns, "account": unread.to_json()})
            write_atomic(directory / f"state-{number:05}.json", after.encode())
            number += 1
    converter = converter or row_converter.make_converter(config, name, separator, columns)
    converter.check_ignored(unread, columns)
    return converter.name, unread


def first_columns(rows: Iterable[Row | BadRow], ignored: Sequence[str]) -> tuple[str, ...]:
    """The columns of the first readable row that are not left out.

    Raises:
        SftError: There are rows, and none can be read: what is wrong with the first.
    """
    bad: RowError | None = None
    for row in rows:
        if isinstance(row, Row):
            return tuple(column for column in row.values if column not in ignored)
        bad = bad or row.error
    if bad is not None:
        raise SftError(where=bad.where, problem=f"{bad.problem} (no row of the source can be read)", fix=bad.fix)
    return ()


def _convert_rows(converter: RowConverter, rows: Iterable[Row | BadRow], unread: UnreadColumns) -> Iterator[Converted]:
    """Each row's conversations, or what is wrong with it; what nothing reads is entered into the account."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row.where, row.error
            continue
        converter.note_columns(row, unread)
        try:
            made = converter.convert(row)
        except RowError as error:
            error.row = short_json(row.values)
            yield row.where, error
        else:
            for conversation in made:
                unread.add_keys(conversation.not_read, row.where)
                yield conversation.where, conversation


def _convert_all(converter: RowConverter, rows: Iterable[Row | BadRow], unread: UnreadColumns) -> Iterator[Converted]:
    """As ``_convert_rows``, for formats whose rows belong together."""

    def noted() -> Iterator[Row | BadRow]:
        """Yield the rows, and record the columns of each."""
        for row in rows:
            if isinstance(row, Row):
                converter.note_columns(row, unread)
            yield row

    for made in converter.convert_all(noted()):
        yield made.where, made.error if isinstance(made, BadRow) else made


def _part_file(directory: Path, number: int) -> Path:
    return directory / f"part-{number:05}.arrow"


def _account_file(directory: Path, number: int) -> Path:
    return directory / f"columns-{number:05}.json"
