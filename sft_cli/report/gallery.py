"""Select examples of every source for the gallery: extreme ones, and random ones."""

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
"""Kind of example -> number shown per source."""
HELD_OUT = "held out"
MAX_SOURCES = 40
"""Sources whose examples are shown, the largest first."""
_MAX_TRIES = 500
"""Examples tried in the search for different rows."""


@dataclass(slots=True)
class GalleryExample:
    """One example of the gallery.

    Attributes:
        row: The example.
        split: Its split.
        kinds: The kinds that it was selected for.
        line: Its line of the ledger; None if there is none.
        excerpt: The stretches of it to show.
    """

    row: ExampleRow
    split: str
    kinds: list[str]
    line: Line | None
    excerpt: list[Excerpt]


@dataclass(frozen=True, slots=True)
class GallerySelection:
    """The examples to show: ``(split, index)`` -> kinds, in display order, and the number of omitted sources."""

    kinds: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    sources_left_out: int = 0


def select_examples(train: SplitStats, validation: SplitStats, sample: LedgerSample, seed: str) -> GallerySelection:
    """Return examples of every source: extreme and random ones of training, and one that is held out."""
    sizes = {source: len(train.rows_of_source(source)) for source in train.sources}
    sizes |= {source: sizes.get(source, 0) for source in validation.sources}
    largest = set(sorted(sizes, key=lambda source: -sizes[source])[:MAX_SOURCES])
    selection = GallerySelection(sources_left_out=len(sizes) - len(largest))
    truncated = truncated_examples(train, sample)
    for source in [source for source in sizes if source in largest]:
        for kind, number in KINDS.items():
            of_source = [index for index in truncated if train.sources[train.source_of[index]] == source]
            for index in of_source[:number] if kind == TRUNCATED else top_rows(train, [source], kind, number, seed):
                selection.kinds.setdefault((train.side, index), []).append(kind)
        for index in top_rows(validation, [source], "random", 1, seed):
            selection.kinds.setdefault((validation.side, index), []).append(HELD_OUT)
    return selection


def truncated_examples(stats: SplitStats, sample: LedgerSample) -> list[int]:
    """Return one example of each of the most truncated rows in the ledger sample, the worst first."""
    all_lines = (line for lines in sample.truncated.values() for line in lines)
    lines = sorted(all_lines, key=lambda line: -ledger_view.lost_by_truncation(line))
    keys = [(line["source"], line["where"]) for line in lines]
    examples = stats.find(set(keys))
    return [examples[key][0] for key in keys if key in examples]


def top_rows(stats: SplitStats, sources: Sequence[str], kind: str, number: int, seed: str) -> list[int]:
    """Return the ``number`` examples of some sources that are most ``kind``, each of a different row.

    Args:
        stats: The split.
        sources: The sources.
        kind: The kind of examples.
        number: Number of examples.
        seed: Seed of random examples, hexadecimal.
    """
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *map(stats.rows_of_source, sources)])
    return _from_distinct_rows(stats, sort_by_kind(stats, np.sort(indices), kind, seed), number)


def sort_by_kind(stats: SplitStats, indices: NDArray[np.int64], kind: str, seed: str) -> NDArray[np.int64]:
    """Return indices of examples, those that are most ``kind`` first; ties keep their order."""
    if kind == "random":
        return np.random.default_rng(int(seed[:16], 16)).permutation(indices)
    lengths, shares = stats.lengths[indices], stats.shares[indices]
    keys = {"longest": -lengths.astype(np.int64), "shortest": lengths, "lowest trained share": shares}
    return indices[np.argsort(keys[kind], kind="stable")]


def _from_distinct_rows(stats: SplitStats, order: Iterable[int], number: int) -> list[int]:
    """Return the first examples that come from different rows."""
    index_by_row: dict[str, int] = {}
    for _, index in zip(range(_MAX_TRIES), order, strict=False):
        index_by_row.setdefault(stats.where(index), int(index))
        if len(index_by_row) == number:
            break
    return list(index_by_row.values())


def read_examples(
    selection: GallerySelection,
    stats_of_splits: Sequence[SplitStats],
    reader: PreparedTokenReader,
    ledger: Path,
    limit: int,
) -> list[GalleryExample]:
    """Return the selected examples, with at most about ``limit`` tokens of each."""
    by_side = {stats.side: stats for stats in stats_of_splits}
    rows = {(split, index): by_side[split].row(index) for split, index in selection.kinds}  # type: ignore[index]
    lines: dict[Any, Line] = ledger_view.find_lines(ledger, {(row.source, row.where) for row in rows.values()})
    return [
        GalleryExample(
            row,
            key[0],
            selection.kinds[key],
            lines.get((row.source, row.where)),
            reader.excerpt(row.ids, row.trained, limit),
        )
        for key, row in rows.items()
    ]
