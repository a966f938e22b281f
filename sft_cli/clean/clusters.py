"""Make findings about duplicate rows, and a report of the largest clusters."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import Finding, RowView
from sft_cli.clean.row_keys import comparison_text
from sft_cli.config.schema.clean import Action, Scope

MAX_CLUSTERS = 50
"""Clusters in a report, the largest first."""
MAX_DROPPED = 5
"""Duplicates listed per cluster, in addition to the kept row."""
MAX_CHARACTERS = 300
"""Characters shown of the kept row."""


class DuplicateMap(NamedTuple):
    """The kept row for each row.

    Attributes:
        kept: ``(rows,)`` the kept row that each row duplicates; the row itself if it is kept.
        similarity: ``(rows,)`` the similarity of the two rows, from 0 to 1.
    """

    kept: NDArray[np.int64]
    similarity: NDArray[np.float32]

    def duplicates(self) -> NDArray[np.int64]:
        """Return the rows that are not kept, ascending."""
        return np.flatnonzero(self.kept != np.arange(len(self.kept)))


def duplicate_findings(
    rows: RowView, matches: DuplicateMap, reason: str, action: Action, detail: str
) -> Iterator[Finding]:
    """Yield a finding for each duplicate; if none are dropped, also one for each row that has duplicates.

    Args:
        rows: All rows.
        matches: The kept row for each row.
        reason: The reason of dropped duplicates.
        action: Whether they are dropped; findings of rows that are only reported have the number of their cluster.
        detail: Template of the sentence about a row, with ``{where}`` of the kept row and ``{similarity}``.
    """
    where = functools.lru_cache(maxsize=10_000)(lambda index: rows[index].where)
    duplicates = matches.duplicates()
    drop = action is Action.drop
    representatives = duplicates[:0] if drop else matches.kept[duplicates]
    for index in np.union1d(duplicates, representatives).tolist():
        kept = int(matches.kept[index])
        if kept == index:
            yield Finding(index, cluster=kept)
            continue
        similarity = round(float(matches.similarity[index]), 4)
        sentence = detail.format(where=where(kept), similarity=f"{similarity:.2f}")
        yield Finding(index, reason if drop else None, sentence, similarity, cluster=None if drop else kept)


def cluster_report(rows: RowView, matches: DuplicateMap, scope: Scope) -> dict[str, Any]:
    """Return the largest clusters, each a kept row and its duplicates.

    ``size`` includes the kept row; ``similarity`` is the smallest of the cluster; ``num_rows`` is the number of
    duplicates in all clusters.
    """
    duplicates = matches.duplicates()
    kept, sizes = np.unique(matches.kept[duplicates], return_counts=True)
    largest = np.lexsort((kept, -sizes))[:MAX_CLUSTERS]
    clusters = []
    for cluster in largest:
        members = duplicates[matches.kept[duplicates] == kept[cluster]]
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
    return {"clusters": clusters, "num_clusters": len(kept), "num_rows": len(duplicates)}
