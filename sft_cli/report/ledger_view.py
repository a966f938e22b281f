"""What the ledger says, read line by line: how rows were dropped, which were truncated, the lines of some rows."""

import heapq
import json
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""One line of ledger.jsonl."""
KEPT = 5
"""Rows kept per reason, chosen by the seed."""
WORST = 8
"""Most truncated rows kept per source."""
REASONS = 200
"""Reasons of which rows are kept."""
_DROPPED = b'"fate": "dropped"'
_WHOLE = (b'"truncated_messages": 0', b'"truncated_tokens": 0')


@dataclass
class LedgerSample:
    """What the report takes from the ledger.

    Attributes:
        dropped: Reason -> some of its lines, in the order of the rows.
        filters: Reason -> filter that gave it; none for what could not be used at all.
        truncated: Source -> its lines that lost most messages, or tokens, the worst first.
        texts: ``(source, where)`` -> the text of a dropped row, where it is kept.
    """

    dropped: dict[str, list[Line]] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    truncated: dict[str, list[Line]] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)


def ledger_lines(file: Path) -> Iterator[bytes]:
    """The lines of a ledger as they are."""
    with open(file, "rb") as stream:
        yield from stream


def sample_ledger(file: Path, seed: str, kept: int = WORST) -> LedgerSample:
    """A fair choice of the dropped rows of each reason, and the ``kept`` most truncated rows of each source."""
    choice = random.Random(seed)
    account, seen = LedgerSample(), dict[str, int]()
    dropped: dict[str, list[tuple[int, Line]]] = {}
    worst: dict[str, list[tuple[int, int, Line]]] = {}
    for number, raw in enumerate(ledger_lines(file)):
        if _DROPPED in raw:
            line = json.loads(raw)
            reason = line["reason"]
            if reason not in dropped and len(dropped) >= REASONS:
                continue
            seen[reason] = seen.get(reason, 0) + 1
            _reservoir_sample(dropped.setdefault(reason, []), (number, line), seen[reason], choice)
            if line.get("filter"):
                account.filters[reason] = line["filter"]
        elif not all(key in raw for key in _WHOLE) and lost_by_truncation(line := json.loads(raw)):
            heap = worst.setdefault(line["source"], [])
            heapq.heappush(heap, (lost_by_truncation(line), -number, line))
            if len(heap) > kept:
                heapq.heappop(heap)
    account.dropped = {reason: [line for _, line in sorted(found, key=_number)] for reason, found in dropped.items()}
    account.truncated = {
        source: [line for *_, line in sorted(heap, key=_rank, reverse=True)] for source, heap in worst.items()
    }
    return account


def lost_by_truncation(line: Line) -> int:
    """Messages that a row lost from its front, or tokens from its end: no run takes both (data.overflow)."""
    return line["truncated_messages"] or line.get("truncated_tokens", 0)


def dropped_texts(file: Path) -> dict[tuple[str, str], str]:
    """The texts of dropped.jsonl by ``(source, where)``; none for a directory that an earlier version wrote."""
    if not file.is_file():
        return {}
    found = (json.loads(line) for line in ledger_lines(file))
    return {(line["source"], line["where"]): line["text"] for line in found if line["text"]}


def _reservoir_sample(kept: list[tuple[int, Line]], new: tuple[int, Line], seen: int, choice: random.Random) -> None:
    """Keep the new line with the chance every one of the ``seen`` so far has."""
    if len(kept) < KEPT:
        kept.append(new)
    elif (place := choice.randrange(seen)) < KEPT:
        kept[place] = new


def _number(entry: tuple[int, Line]) -> int:
    return entry[0]


def _rank(entry: tuple[int, int, Line]) -> tuple[int, int]:
    return entry[:2]


def find_lines(file: Path, places: Collection[tuple[str, str]]) -> dict[tuple[str, str], Line]:
    """The lines of rows named by ``(source, where)``."""
    starts = {_start(json.dumps({"where": where, "": 0}, ensure_ascii=False).encode()) for _, where in places}
    found = {}
    for raw in ledger_lines(file):
        if _start(raw) in starts:
            line = json.loads(raw)
            if (place := (line["source"], line["where"])) in places:
                found[place] = line
    return found


def _start(raw: bytes) -> bytes:
    """A line up to its second key: what tells, without reading the whole, that it can be the line of a row."""
    return raw[: raw.find(b'", "')]
