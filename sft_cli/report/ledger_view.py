"""Read the ledger line by line: samples of dropped rows, the most truncated rows, lines of given rows."""

import heapq
import json
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""One line of ledger.jsonl."""
MAX_PER_REASON = 5
"""Dropped rows kept per reason, selected by the seed."""
MAX_TRUNCATED = 8
"""Most truncated rows kept per source."""
MAX_REASONS = 200
"""Reasons of which rows are kept."""
_DROPPED = b'"fate": "dropped"'
_WHOLE = (b'"truncated_messages": 0', b'"truncated_tokens": 0')


@dataclass
class LedgerSample:
    """The part of the ledger that the report shows.

    Attributes:
        dropped: Reason -> some of its lines, in the order of the rows.
        filters: Reason -> filter that gave it; no entry for rows that could not be used.
        truncated: Source -> its lines that lost most messages or tokens, the worst first.
        texts: ``(source, where)`` -> the text of a dropped row, if it was stored.
    """

    dropped: dict[str, list[Line]] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    truncated: dict[str, list[Line]] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)


def ledger_lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a ledger, unparsed."""
    with open(file, "rb") as stream:
        yield from stream


def sample_ledger(file: Path, seed: str, max_truncated: int = MAX_TRUNCATED) -> LedgerSample:
    """Return a random sample of the dropped rows of each reason, and the most truncated rows of each source."""
    rng = random.Random(seed)
    sample, seen = LedgerSample(), dict[str, int]()
    dropped: dict[str, list[tuple[int, Line]]] = {}
    worst: dict[str, list[tuple[int, int, Line]]] = {}
    for number, raw in enumerate(ledger_lines(file)):
        if _DROPPED in raw:
            line = json.loads(raw)
            reason = line["reason"]
            if reason not in dropped and len(dropped) >= MAX_REASONS:
                continue
            seen[reason] = seen.get(reason, 0) + 1
            _reservoir_sample(dropped.setdefault(reason, []), (number, line), seen[reason], rng)
            if line.get("filter"):
                sample.filters[reason] = line["filter"]
        elif not all(key in raw for key in _WHOLE) and lost_by_truncation(line := json.loads(raw)):
            heap = worst.setdefault(line["source"], [])
            heapq.heappush(heap, (lost_by_truncation(line), -number, line))
            if len(heap) > max_truncated:
                heapq.heappop(heap)
    sample.dropped = {reason: [line for _, line in sorted(entries, key=_number)] for reason, entries in dropped.items()}
    sample.truncated = {
        source: [line for *_, line in sorted(heap, key=_rank, reverse=True)] for source, heap in worst.items()
    }
    return sample


def lost_by_truncation(line: Line) -> int:
    """Return the messages that a row lost at its start, or the tokens at its end; a run removes only one of them."""
    return line["truncated_messages"] or line.get("truncated_tokens", 0)


def dropped_texts(file: Path) -> dict[tuple[str, str], str]:
    """Return the texts of dropped.jsonl by ``(source, where)``; empty for a directory of an earlier version."""
    if not file.is_file():
        return {}
    rows = (json.loads(line) for line in ledger_lines(file))
    return {(line["source"], line["where"]): line["text"] for line in rows if line["text"]}


def _reservoir_sample(kept: list[tuple[int, Line]], new: tuple[int, Line], seen: int, rng: random.Random) -> None:
    """Keep the new line with the probability that each of the ``seen`` lines so far has."""
    if len(kept) < MAX_PER_REASON:
        kept.append(new)
    elif (slot := rng.randrange(seen)) < MAX_PER_REASON:
        kept[slot] = new


def _number(entry: tuple[int, Line]) -> int:
    """Return the line number of an entry."""
    return entry[0]


def _rank(entry: tuple[int, int, Line]) -> tuple[int, int]:
    """Return the sort key of an entry."""
    return entry[:2]


def find_lines(file: Path, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], Line]:
    """Return the lines of rows given by ``(source, where)``."""
    starts = {_start(json.dumps({"where": where, "": 0}, ensure_ascii=False).encode()) for _, where in keys}
    lines = {}
    for raw in ledger_lines(file):
        if _start(raw) in starts:
            line = json.loads(raw)
            if (key := (line["source"], line["where"])) in keys:
                lines[key] = line
    return lines


def _start(raw: bytes) -> bytes:
    """Return a line up to its second key, which identifies candidates without parsing the whole line."""
    return raw[: raw.find(b'", "')]
