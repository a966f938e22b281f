"""Write the texts of some dropped rows, which report.html shows."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np

from sft_cli.data.row_errors import short_json
from sft_cli.data.row_store import StoredRow
from sft_cli.prepare.source_split import SourceSplit

FILE_NAME = "dropped.jsonl"


def write_dropped_rows(file: Path, splits: Sequence[SourceSplit], locations: Collection[tuple[str, str]]) -> None:
    """Write ``{"source", "where", "text"}`` lines for the rows at ``(source, where)``, in the order of the rows.

    A row that could not be read has an empty text.
    """
    with file.open("w", encoding="utf-8") as stream:
        for split in splits:
            split_locations = {where for source, where in locations if source == split.source}
            for row in _rows_at(split, split_locations) if split_locations else ():
                line = {"source": split.source, "where": row.where, "text": _text(row)}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _rows_at(split: SourceSplit, locations: Collection[str]) -> Iterator[StoredRow]:
    """Return the rows of a split at some locations."""
    numbers = [number for number, (where, _) in enumerate(split.store.locations()) if where in locations]
    return split.store.read(np.array(numbers, dtype=np.int64)) if numbers else chain()


def _text(row: StoredRow) -> str:
    """Return a row for display: its messages with their roles, or its values as JSON."""
    if row.conversation is None:
        return row.error.row if row.error is not None else ""
    if row.conversation.text is not None:
        return row.conversation.text[:2000]
    return short_json([asdict(message) for message in row.conversation.messages])
