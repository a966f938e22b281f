"""Some dropped rows as they are: what report.html shows of the rows that no example was made of."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np

from sft_cli.data.row_errors import cut_json
from sft_cli.data.row_store import Stored
from sft_cli.prepare.write_stage import Part

NAME = "dropped.jsonl"


def write(file: Path, parts: Sequence[Part], places: Collection[tuple[str, str]]) -> None:
    """Write a line ``{"source", "where", "text"}`` for each row named by ``(source, where)``, in the order of the rows.

    A row that could not be read at all has an empty text.
    """
    with file.open("w", encoding="utf-8") as stream:
        for part in parts:
            wanted = {where for source, where in places if source == part.source}
            for row in _found(part, wanted) if wanted else ():
                line = {"source": part.source, "where": row.where, "text": _text(row)}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _found(part: Part, wanted: Collection[str]) -> Iterator[Stored]:
    """The rows of a store at some places."""
    numbers = [number for number, (where, _) in enumerate(part.rows.store.places()) if where in wanted]
    return part.rows.store.read(np.array(numbers, dtype=np.int64)) if numbers else chain()


def _text(row: Stored) -> str:
    """A row for people to read: its messages with their roles, or its values as JSON."""
    if row.conversation is None:
        return row.error.row if row.error is not None else ""
    if row.conversation.text is not None:
        return row.conversation.text[:2000]
    return cut_json([asdict(message) for message in row.conversation.messages])
