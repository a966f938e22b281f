"""Find training rows that are also held out, which would make the held-out loss too low."""

from collections.abc import Sequence

import numpy as np

from sft_cli.clean.base import Findings, RowView
from sft_cli.clean.clusters import DuplicateMap, cluster_report, duplicate_findings
from sft_cli.clean.row_keys import representatives, row_digest, row_digests
from sft_cli.config.schema.clean import Action, LeakageConfig
from sft_cli.types import Conversation

REASON = "also held out"


def find_leakage(rows: RowView, config: LeakageConfig) -> Findings:
    """Yield the training rows that equal a held-out row by ``config.scope``.

    Returns:
        A report of clusters (see clusters.py), or None if no rows are held out.
    """
    if not rows.held_out.any() or rows.held_out.all():
        return None
    kept = representatives(row_digests(rows, _digests, config), rows)
    indices = np.arange(len(rows))
    leaked = ~rows.held_out & rows.held_out[kept]
    matches = DuplicateMap(np.where(leaked, kept, indices), np.ones(len(rows), np.float32))
    yield from duplicate_findings(rows, matches, REASON, Action.drop, "also held out as {where}")
    return cluster_report(rows, matches, config.scope)


def _digests(conversations: Sequence[Conversation], config: LeakageConfig) -> list[bytes]:
    """Return the digest of each conversation."""
    return [row_digest(conversation, config.scope) for conversation in conversations]
