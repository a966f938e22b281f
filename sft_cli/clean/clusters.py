"""Rows that stand behind another: the findings about them, and a report of the largest clusters."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import Finding, RowView
from sft_cli.clean.row_keys import comparison_text
from sft_cli.config.schema.clean import Action, Scope

MAX_CLUSTERS = 50
"""Clusters in a report, the largest."""
MAX_DROPPED = 5
"""Rows named of each, beside the one that is kept."""
MAX_CHARACTERS = 300
"""Characters shown of the row that is kept."""


class DuplicateMap(NamedTuple):
    """Which row each row stands behind.

    Attributes:
        kept: ``(rows,)``: the row that is kept in its place; itself where it is kept.
        similarity: ``(rows,)``: between the two, from 0 to 1.
    """

    kept: NDArray[np.int64]
    similarity: NDArray[np.float32]

    def duplicates(self) -> NDArray[np.int64]:
        """Ascending: the rows that stand behind another."""
        return np.flatnonzero(self.kept != np.arange(len(self.kept)))


def duplicate_findings(
    rows: RowView, matches: DuplicateMap, reason: str, action: Action, detail: str
) -> Iterator[Finding]:
    """One for each row that stands behind another; where all of them stay, also one for the row they stand behind.

    Args:
        rows: All of them.
        matches: Which stands behind which.
        reason: Why such rows are dropped.
        action: Whether they are; rows that are only reported carry the number of their cluster.
        detail: The sentence about a row, with ``{where}`` of the kept row and ``{similarity}`` in it.
    """
    where = functools.lru_cache(maxsize=10_000)(lambda index: rows[index].where)
    found = matches.duplicates()
    drop = action is Action.drop
    representatives = found[:0] if drop else matches.kept[found]
    for index in np.union1d(found, representatives).tolist():
        kept = int(matches.kept[index])
        if kept == index:
            yield Finding(index, cluster=kept)
            continue
        similarity = round(float(matches.similarity[index]), 4)
        sentence = detail.format(where=where(kept), similarity=f"{similarity:.2f}")
        yield Finding(index, reason if drop else None, sentence, similarity, cluster=None if drop else kept)


def cluster_report(rows: RowView, matches: DuplicateMap, scope: Scope) -> dict[str, Any]:
    """The largest clusters: a kept row and those that stand behind it.

    ``size`` counts the kept row, too; ``similarity`` is the smallest of the cluster; ``num_rows`` counts the rows that
    stand behind another in all clusters.
    """
    found = matches.duplicates()
    kept, sizes = np.unique(matches.kept[found], return_counts=True)
    largest = np.lexsort((kept, -sizes))[:MAX_CLUSTERS]
    clusters = []
    for cluster in largest:
        members = found[matches.kept[found] == kept[cluster]]
        representative = rows[int(kept[cluster])]
        clusters.append(
            {
                "size": int(sizes[cluster]) + 1,
                "kept": representative.where,
                "dropped": [rows[int(index)].where for index in members[:MAX_DROPPED]],
                "similarity": round(float(matches.similarity[members].min()), 4),
                "text": comparison_text(representative, scope)[:MAX_CHARACTERS],
            }
        )
    return {"clusters": clusters, "num_clusters": len(kept), "num_rows": len(found)}
