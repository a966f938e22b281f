"""The account of every input row: used, dropped and why, or not sampled."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

from sft_cli.errors import SftError

Fate = Literal["used", "dropped", "not_sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one input row.

    Attributes:
        where: Its place.
        source: Name of the source in the mix.
        split: ``train`` or ``validation``.
        fate: ``used``, ``dropped``, or ``not_sampled`` (max_rows or weight left it out).
        reason: Why it was dropped, in a few words shared by all such rows; None otherwise.
        detail: The sentence about this very row; None unless dropped.
        examples: Examples it became; several when it was unrolled.
        copies: Times each of them is there in an epoch.
        tokens: Tokens of its examples, one copy of each.
        trained_tokens: Those that carry loss.
        truncated_messages: Messages taken off its front to make it fit.
    """

    where: str
    source: str
    split: str
    fate: Fate
    reason: str | None = None
    detail: str | None = None
    examples: int = 0
    copies: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated_messages: int = 0

    def __post_init__(self) -> None:
        assert (self.fate == "dropped") == (self.reason is not None), f"{self.where}: {self.fate}, {self.reason}"


COLUMNS = tuple(Entry.__dataclass_fields__)
"""Keys of a line of ledger.jsonl."""


class Ledger:
    """Entries in the order of the rows."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def add(self, entry: Entry) -> None:
        """One more row."""
        self.entries.append(entry)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per source: rows, rows of each fate, truncated rows, and over all copies examples, tokens, trained tokens."""
        found: dict[str, dict[str, int]] = {}
        for entry in self.entries:
            names = ("rows", "used", "dropped", "not_sampled", "truncated", "examples", "tokens", "trained_tokens")
            count = found.setdefault(entry.source, dict.fromkeys(names, 0))
            count["rows"] += 1
            count[entry.fate] += 1
            count["truncated"] += entry.truncated_messages > 0
            count["examples"] += entry.examples * entry.copies
            count["tokens"] += entry.tokens * entry.copies
            count["trained_tokens"] += entry.trained_tokens * entry.copies
        return found

    def reasons(self) -> dict[str, int]:
        """Dropped rows per reason, the most frequent first."""
        counter = Counter(entry.reason for entry in self.entries if entry.reason is not None)
        return dict(sorted(counter.items(), key=lambda pair: (-pair[1], pair[0])))

    def write(self, path: Path) -> None:
        """One JSON object a line, in order."""
        values = attrgetter(*COLUMNS)
        with open(path, "w", encoding="utf-8") as file:
            for entry in self.entries:
                file.write(json.dumps(dict(zip(COLUMNS, values(entry), strict=True)), ensure_ascii=False) + "\n")

    def check_budget(self, max_dropped: float) -> None:
        """Refuse when more than ``max_dropped`` of the rows were dropped, or nothing of a source is left.

        The share is of the rows that were used or dropped; rows not sampled do not count.
        """
        used = sum(entry.fate == "used" for entry in self.entries)
        dropped = sum(entry.fate == "dropped" for entry in self.entries)
        if dropped and dropped > max_dropped * (used + dropped):
            share = dropped / (used + dropped)
            raise SftError(
                where="data.max_dropped",
                problem=f"{dropped} of {used + dropped} rows ({share:.2%}) were dropped, more than {max_dropped:.2%}: "
                + self._top_reasons(),
                fix=f"repair the rows, or set data.max_dropped={_rounded_up(share)}",
            )
        for source, count in self.counts().items():
            if count["dropped"] and not count["used"]:
                raise SftError(
                    where=f"data.mix.{source}",
                    problem=f"no row is left, {count['dropped']} were dropped: {self._top_reasons(source)}",
                    fix="repair the rows, or take the source out of the mix",
                )

    def _top_reasons(self, source: str | None = None, limit: int = 3) -> str:
        """``3 empty answer (rows.jsonl:2)``, the most frequent first, each with its first row."""
        dropped = Ledger(entry for entry in self.entries if entry.fate == "dropped" and source in (None, entry.source))
        examples = {entry.reason: entry.where for entry in reversed(dropped.entries)}
        reasons = list(dropped.reasons().items())
        more = f", and {len(reasons) - limit} more reasons" if len(reasons) > limit else ""
        return ", ".join(f"{count} {reason} ({examples[reason]})" for reason, count in reasons[:limit]) + more


def _rounded_up(share: float) -> float:
    """The share with two digits that is not below it, at most 1."""
    digits = 1 - math.floor(math.log10(share))
    return min(1.0, round(math.ceil(share * 10**digits) / 10**digits, digits))
