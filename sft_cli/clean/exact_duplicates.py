"""Find rows that are equal after normalization (see row_keys.py), within and across sources."""

from collections.abc import Sequence

import numpy as np

from sft_cli.clean.base import Findings, RowView
from sft_cli.clean.clusters import DuplicateMap, cluster_report, duplicate_findings
from sft_cli.clean.row_keys import representatives, row_digest, row_digests
from sft_cli.config.schema.clean import ExactDuplicatesConfig
from sft_cli.types import Conversation

REASON = "exact duplicate"


def find_exact_duplicates(rows: RowView, config: ExactDuplicatesConfig) -> Findings:
    """Yield all but one of the rows that are equal by ``config.scope``.

    Held-out rows are kept before others, then rows of the highest priority, then the earliest.

    Returns:
        A report of clusters (see clusters.py).
    """
    matches = DuplicateMap(representatives(row_digests(rows, _digests, config), rows), np.ones(len(rows), np.float32))
    yield from duplicate_findings(rows, matches, REASON, config.action, "the same as {where}")
    return cluster_report(rows, matches, config.scope)


def _digests(conversations: Sequence[Conversation], config: ExactDuplicatesConfig) -> list[bytes]:
    """Return the digest of each conversation."""
    return [row_digest(conversation, config.scope, weights=True) for conversation in conversations]
