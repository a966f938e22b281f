"""Read and convert the rows of a source once, and keep them in a store (first stage)."""

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
    "utils.text", "utils.entry_points", "prepare.rows_stage",
)  # fmt: skip
"""Modules that affect the converted rows."""
RULES = (
    "format", "columns", "ignore", "delimiter", "encoding", "split", "validation_split", "variables", "placeholders",
    "tags", "scores", "roles", "tree", "stream", "role",
)  # fmt: skip
"""Settings of a source that affect the converted rows; its files are identified by content."""
Converted = tuple[str, Conversation | RowError]


class SourceRows(NamedTuple):
    """The converted rows of a source.

    Attributes:
        train: Its training rows.
        validation: Its own held-out rows, if it has any.
        format: Its format.
        unread: The unread and the ignored columns of all its rows.
    """

    train: RowStore
    validation: RowStore | None
    format: str
    unread: UnreadColumns


def source_inputs(config: SourceConfig, name: str, separator: str, seed: int) -> dict[str, Any]:
    """Return the inputs of the rows of a source."""
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
    config: SourceConfig, name: str, separator: str, seed: int, inputs: dict[str, Any], processes: int
) -> SourceRows:
    """Return the converted rows of a source, from the cache if they are there.

    Args:
        config: The source.
        name: Name of the source in the mix.
        separator: Text between instruction and input of Alpaca rows.
        seed: Selects the rows of a streamed source.
        inputs: Its ``source_inputs``.
        processes: Number of worker processes.
    """
    stores: list[tuple[RowStore, str]] = []
    unread = UnreadColumns()
    splits: tuple[SplitName, ...] = ("train", "validation") if source_rows.has_validation(config) else ("train",)
    for split in splits:
        with stage_cache.stage_dir("rows", {**inputs, "split": split}) as (directory, is_finished):
            if not is_finished:
                format, columns = _write_parts(directory, config, name, split, separator, seed, processes)
                stage_cache.mark_done(
                    directory, {"format": format, "columns": columns.to_json(), "inputs": {**inputs, "split": split}}
                )
        final = stage_cache.final_dir(directory)
        finished = stage_cache.load_result(final)
        unread.join(UnreadColumns.of(finished["columns"]))
        stores.append((RowStore(final, name), finished["format"]))
    (train, format), *others = stores
    return SourceRows(train, others[0][0] if others else None, format, unread)


def _write_parts(
    directory: Path, config: SourceConfig, name: str, split: SplitName, separator: str, seed: int, processes: int
) -> tuple[str, UnreadColumns]:
    """Write the parts that do not exist yet, and return the format's label and the account of the columns.

    Args:
        directory: Directory of the stage.
        config: The source.
        name: Name of the source in the mix.
        split: The split.
        separator: Text between instruction and input of Alpaca rows.
        seed: Selects the rows of a streamed source.
        processes: Number of worker processes.
    """
    if config.stream:
        return _write_stream(directory, config, name, split, separator, seed)
    pieces = source_rows.source_slices(config, name, split)
    columns = first_columns((row for piece in pieces for row in source_rows.read_slice(piece, name)), config.ignore)
    converter = row_converter.make_converter(config, name, separator, columns)
    unread = UnreadColumns()
    finished = [number for number in range(len(pieces)) if _account_file(directory, number).is_file()]
    for number in finished:
        unread.join(unread_columns.load_unread(_account_file(directory, number)))
        converter.refuse_unread(unread)
    tasks = [(number, piece) for number, piece in enumerate(pieces) if number not in finished]
    size, remaining = (sum(piece.size for piece in selected) for selected in (pieces, [piece for _, piece in tasks]))
    with progress(f"rows      {name}", share=1 - remaining / max(1, size)) as bar:
        if converter.needs_all_rows:
            row_store.write_rows(
                _part_file(directory, 0), _convert_all(converter, _with_progress(pieces, name, bar), unread)
            )
            converter.refuse_unread(unread)
        else:
            setup = (directory, config, name, separator, columns)
            written = workers.run(_PartWriter, setup, _PartWriter.write, tasks, processes)
            for (num_rows, part_unread), (_, piece) in zip(written, tasks, strict=True):
                unread.join(part_unread)
                converter.refuse_unread(unread)
                remaining -= piece.size
                bar.advance(num_rows, 1 - remaining / max(1, size))
    converter.check_ignored(unread, columns)
    return converter.name, unread


def _with_progress(pieces: Sequence[Slice], name: str, bar: Progress) -> Iterator[Row | BadRow]:
    """Yield the rows of all slices, and report them to the progress bar as they are read."""
    size, bytes_read = sum(piece.size for piece in pieces), 0
    for piece in pieces:
        rows = 0
        for row in source_rows.read_slice(piece, name):
            rows += 1
            yield row
        bytes_read += piece.size
        bar.advance(rows, bytes_read / max(1, size))


class _PartWriter:
    """Writes parts in a worker process."""

    def __init__(
        self, directory: Path, config: SourceConfig, name: str, separator: str, columns: tuple[str, ...]
    ) -> None:
        self._directory, self._name = directory, name
        self._converter = row_converter.make_converter(config, name, separator, columns)

    def write(self, task: tuple[int, Slice]) -> tuple[int, UnreadColumns]:
        """Write the part of one slice, then the account of its columns, which marks the part as complete.

        Returns:
            The number of rows, and the account.
        """
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
    """Write a part for each block of a streamed source, after the last part that exists.

    Args:
        directory: Directory of the stage.
        config: The source.
        name: Name of the source in the mix.
        split: The split.
        separator: Text between instruction and input of Alpaca rows.
        seed: Selects the rows.

    Returns:
        The format's label, and the account of the columns.
    """
    states = sorted(directory.glob("state-*.json"))
    initial = {"next": None, "columns": (), "account": UnreadColumns().to_json()}
    before: dict[str, Any] = json.loads(states[-1].read_bytes()) if states else initial
    number, columns, converter = len(states), tuple(before["columns"]), None
    unread = UnreadColumns.of(before["account"])
    stored = before["next"]["rows"] if states else 0
    with progress(f"rows      {name}", config.max_rows if split == "train" else None, stored) as bar:
        for block in streaming.stream_blocks(config, name, split, seed, before["next"]):
            columns = columns if number else first_columns(block.rows, config.ignore)
            converter = converter or row_converter.make_converter(config, name, separator, columns)
            bar.advance(
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
    """Return the columns of the first readable row, without ignored ones.

    Raises:
        SftError: There are rows, but none can be read; the error is that of the first.
    """
    first_error: RowError | None = None
    for row in rows:
        if isinstance(row, Row):
            return tuple(column for column in row.values if column not in ignored)
        first_error = first_error or row.error
    if first_error is not None:
        raise SftError(
            where=first_error.where,
            problem=f"{first_error.problem} (no row of the source can be read)",
            fix=first_error.fix,
        )
    return ()


def _convert_rows(converter: RowConverter, rows: Iterable[Row | BadRow], unread: UnreadColumns) -> Iterator[Converted]:
    """Yield each row's conversations, or its error; unread columns and keys are added to the account."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row.where, row.error
            continue
        converter.note_columns(row, unread)
        try:
            conversations = converter.convert(row)
        except RowError as error:
            error.row = short_json(row.values)
            yield row.where, error
        else:
            for conversation in conversations:
                unread.add_keys(conversation.not_read, row.where)
                yield conversation.where, conversation


def _convert_all(converter: RowConverter, rows: Iterable[Row | BadRow], unread: UnreadColumns) -> Iterator[Converted]:
    """Yield the conversations of formats whose rows belong together, as ``_convert_rows`` does."""

    def rows_with_notes() -> Iterator[Row | BadRow]:
        """Yield the rows, and record the columns of each."""
        for row in rows:
            if isinstance(row, Row):
                converter.note_columns(row, unread)
            yield row

    for result in converter.convert_all(rows_with_notes()):
        yield result.where, result.error if isinstance(result, BadRow) else result


def _part_file(directory: Path, number: int) -> Path:
    """Return the file of a part."""
    return directory / f"part-{number:05}.arrow"


def _account_file(directory: Path, number: int) -> Path:
    """Return the file of the column account of a part."""
    return directory / f"columns-{number:05}.json"
