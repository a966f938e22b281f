"""The rows of a run: pages of the ledger, and the tokens of any row, without reading all rows into memory."""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft_cli.board.details import prepared_directory
from sft_cli.data.prepared import open_prepared
from sft_cli.errors import SftError
from sft_cli.report.ledger_view import Line, dropped_texts
from sft_cli.report.selection import SPLITS
from sft_cli.report.split_stats import SplitStats
from sft_cli.report.token_pieces import Excerpt, PreparedTokenReader
from sft_cli.run_dir import RunDir

PAGE = 50
"""Rows on a page."""
SCANNED_BYTES = 64 << 20
"""Bytes of the ledger that one request reads; the next page continues there."""
MAX_TOKENS = 4000
"""Tokens shown of a row."""
MAX_OPEN = 3
"""Prepared directories that stay open."""
FATES = ("used", "dropped", "not_sampled", "truncated")
"""What rows can be filtered by; ``truncated`` are used rows that lost messages or tokens."""


def ledger_page(ledger: Path, wanted: Mapping[str, str], start: int) -> dict[str, Any]:
    """Return the next rows of a ledger that match.

    Args:
        ledger: The ledger.
        wanted: ``text``, which the line must hold somewhere; ``source``; ``fate``, one of ``FATES``. Empty matches all.
        start: Position of the first line, from ``next`` of an earlier page.

    Returns:
        ``rows``, each with its position ``at``; and ``next``, the position to go on from, None at the end.
    """
    needle = json.dumps(wanted.get("text", ""), ensure_ascii=False)[1:-1].lower()
    rows: list[Line] = []
    with ledger.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, start - 1))
        if start:
            stream.readline()  # from within a line, the next one follows
        position = stream.tell()
        while len(rows) < PAGE and position < min(size, start + SCANNED_BYTES):
            raw = stream.readline()
            line = _matching(raw, needle, wanted)
            if line is not None:
                rows.append({**line, "at": position})
            position += len(raw)
    return {"rows": rows, "next": position if position < size else None}


def _matching(raw: bytes, needle: str, wanted: Mapping[str, str]) -> Line | None:
    """Return a line of the ledger if it matches."""
    if needle and needle not in raw.decode("utf-8", "replace").lower():
        return None
    line = json.loads(raw)
    fate, source = wanted.get("fate", ""), wanted.get("source", "")
    if source and line["source"] != source:
        return None
    if fate == "truncated":
        return line if line.get("truncated_messages") or line.get("truncated_tokens") else None
    return line if not fate or line["fate"] == fate else None


class _OpenData:
    """One prepared directory: its splits as small arrays, and its tokenizer."""

    def __init__(self, directory: Path) -> None:
        prepared = open_prepared(directory)
        self.splits = [SplitStats(prepared.directory, side) for side in SPLITS]
        self.reader = PreparedTokenReader.from_directory(prepared.directory, prepared.manifest)


class DataRows:
    """The prepared data of runs; the last used ones stay open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _OpenData] = OrderedDict()
        self._lock = threading.Lock()

    def page(self, run: RunDir, wanted: Mapping[str, str], start: int) -> dict[str, Any]:
        """Return a page of the ledger of a run's data, see ``ledger_page``, and the names of its ``sources``.

        Raises:
            SftError: The data is gone.
        """
        directory = data_of(run)
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        return {**ledger_page(directory / "ledger.jsonl", wanted, start), "sources": list(manifest.get("sources", {}))}

    def row(self, run: RunDir, at: int) -> dict[str, Any]:
        """Return the row at a position of the ledger: its line, dropped text, and examples as pieces of text.

        Raises:
            SftError: The data is gone, or no line begins there.
        """
        directory = data_of(run)
        line = _line_at(directory / "ledger.jsonl", at)
        key = (str(line["source"]), str(line["where"]))
        text = dropped_texts(directory / "dropped.jsonl").get(key) if line["fate"] == "dropped" else None
        examples = []
        if line["fate"] == "used":
            with self._lock:
                opened = self._opened(directory)
                for split in opened.splits:
                    for index in split.find({key}).get(key, []):
                        row = split.row(index)
                        excerpt = opened.reader.excerpt(row.ids, row.trained, MAX_TOKENS)
                        count = {"tokens": len(row.ids), "trained": row.num_trained}
                        examples.append({"split": split.side, "index": index, **count, "excerpt": excerpt})
        return {"line": line, "dropped_text": text, "examples": examples}

    def _opened(self, directory: Path) -> _OpenData:
        """Return an opened prepared directory."""
        opened = self._open.pop(directory, None) or _OpenData(directory)
        self._open[directory] = opened
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return opened


def data_of(run: RunDir) -> Path:
    """Return the prepared directory of a run.

    Raises:
        SftError: It is gone, or holds other data by now.
    """
    directory = prepared_directory(run)
    if directory is None:
        raise SftError(
            where=str(run.path),
            problem="the prepared data of the run is gone, or was prepared again with other content",
            fix="prepare it again: sft prepare, with the KEY=VALUE words of the run's command line",
        )
    return directory


def as_plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ``DataRows.row`` for JSON: an excerpt is a list of stretches of pieces."""
    examples = [{**one, "excerpt": [_stretch(part) for part in one["excerpt"]]} for one in row["examples"]]
    return {**row, "examples": examples}


def _stretch(part: Excerpt) -> dict[str, Any]:
    """Return neighboring pieces for JSON."""
    pieces = [asdict(piece) for piece in part.pieces]
    return {"num_hidden": part.num_hidden, "hidden_trained": part.hidden_trained, "pieces": pieces}


def _line_at(ledger: Path, at: int) -> Line:
    """Return the line that begins at a position of the ledger.

    Raises:
        SftError: No line begins there.
    """
    with ledger.open("rb") as stream:
        stream.seek(max(0, at - 1))
        if at == 0 or stream.read(1) == b"\n":
            raw = stream.readline()
            if raw.startswith(b"{"):
                return json.loads(raw)
    raise SftError(
        where=f"at={at}", problem="no row of the ledger begins there", fix="open /api/ledger/RUN, which lists the rows"
    )
