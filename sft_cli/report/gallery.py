"""The gallery: a few rows of every source, chosen for what is extreme about them, and some by chance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.report import ledger_view
from sft_cli.report.ledger_view import LedgerSample, Line
from sft_cli.report.split_stats import ExampleRow, SplitStats
from sft_cli.report.token_pieces import Excerpt, PreparedTokenReader

TRUNCATED = "most truncated"
KINDS = {"longest": 2, "shortest": 2, "lowest trained share": 3, TRUNCATED: 3, "random": 4}
"""Kind of row -> how many are shown per source."""
HELD_OUT = "held out"
MOST_SOURCES = 40
"""Sources whose rows are shown, the largest first."""
_LOOKED_AT = 500
"""Examples looked at for rows that differ, where rows became several examples."""


@dataclass(slots=True)
class GalleryExample:
    """One example of the gallery.

    Attributes:
        row: The example.
        split: Where it stands.
        kinds: Why it was chosen.
        line: Its line of the ledger; None where there is none.
        excerpt: What is shown of it.
    """

    row: ExampleRow
    split: str
    kinds: list[str]
    line: Line | None
    excerpt: list[Excerpt]


@dataclass(frozen=True, slots=True)
class GallerySelection:
    """The examples to show: ``(split, index)`` -> kinds, in the order to show them, and sources left out."""

    kinds: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    sources_left_out: int = 0


def select_examples(train: SplitStats, validation: SplitStats, account: LedgerSample, seed: str) -> GallerySelection:
    """Rows of every source: the extremes of training, some by chance, and one that is held out."""
    sizes = {source: len(train.rows_of_source(source)) for source in train.sources}
    sizes |= {source: sizes.get(source, 0) for source in validation.sources}
    largest = set(sorted(sizes, key=lambda source: -sizes[source])[:MOST_SOURCES])
    choice = GallerySelection(sources_left_out=len(sizes) - len(largest))
    cut = truncated_examples(train, account)
    for source in [source for source in sizes if source in largest]:
        for kind, number in KINDS.items():
            own = [index for index in cut if train.sources[train.source_of[index]] == source]
            for index in own[:number] if kind == TRUNCATED else top_rows(train, [source], kind, number, seed):
                choice.kinds.setdefault((train.side, index), []).append(kind)
        for index in top_rows(validation, [source], "random", 1, seed):
            choice.kinds.setdefault((validation.side, index), []).append(HELD_OUT)
    return choice


def truncated_examples(survey: SplitStats, account: LedgerSample) -> list[int]:
    """One example of each row that the account names as most truncated, the worst first."""
    found = (line for lines in account.truncated.values() for line in lines)
    lines = sorted(found, key=lambda line: -ledger_view.lost_by_truncation(line))
    places = [(line["source"], line["where"]) for line in lines]
    examples = survey.find(set(places))
    return [examples[place][0] for place in places if place in examples]


def top_rows(survey: SplitStats, sources: Sequence[str], kind: str, number: int, seed: str) -> list[int]:
    """The ``number`` examples of some sources that are most ``kind``, each of another row."""
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *map(survey.rows_of_source, sources)])
    return _from_distinct_rows(survey, sort_by_kind(survey, np.sort(indices), kind, seed), number)


def sort_by_kind(survey: SplitStats, indices: NDArray[np.int64], kind: str, seed: str) -> NDArray[np.int64]:
    """Indices of examples, those that are most ``kind`` first; ties keep their order."""
    if kind == "random":
        return np.random.default_rng(int(seed[:16], 16)).permutation(indices)
    lengths, shares = survey.lengths[indices], survey.shares[indices]
    keys = {"longest": -lengths.astype(np.int64), "shortest": lengths, "lowest trained share": shares}
    return indices[np.argsort(keys[kind], kind="stable")]


def _from_distinct_rows(survey: SplitStats, order: Iterable[int], number: int) -> list[int]:
    """The first examples that come from different rows."""
    found: dict[str, int] = {}
    for _, index in zip(range(_LOOKED_AT), order, strict=False):
        found.setdefault(survey.where(index), int(index))
        if len(found) == number:
            break
    return list(found.values())


def read_examples(
    choice: GallerySelection, surveys: Sequence[SplitStats], reader: PreparedTokenReader, ledger: Path, limit: int
) -> list[GalleryExample]:
    """The chosen examples, at most about ``limit`` tokens of each."""
    by_side = {survey.side: survey for survey in surveys}
    rows = {(split, index): by_side[split].row(index) for split, index in choice.kinds}  # type: ignore[index]
    found: dict[Any, Line] = ledger_view.find_lines(ledger, {(row.source, row.where) for row in rows.values()})
    return [
        GalleryExample(
            row,
            place[0],
            choice.kinds[place],
            found.get((row.source, row.where)),
            reader.excerpt(row.ids, row.trained, limit),
        )
        for place, row in rows.items()
    ]
