"""Rows that are the same but for what normalisation takes away (see row_keys.py), within and across sources."""

from collections.abc import Sequence

import numpy as np

from sft_cli.clean.base import Finding, Rows
from sft_cli.clean.clusters import Matches, findings, report
from sft_cli.clean.row_keys import digest, digests, winners
from sft_cli.config.schema.clean import ExactDuplicatesConfig
from sft_cli.types import Conversation

REASON = "exact duplicate"


def find(rows: Rows, config: ExactDuplicatesConfig) -> Finding:
    """All but one of the rows that are the same by ``config.scope``.

    The one that is kept: a held-out row before others, then the highest priority, then the earliest. Returns a report
    of clusters (see clusters.py).
    """
    matches = Matches(winners(digests(rows, _digests, config), rows), np.ones(len(rows), np.float32))
    yield from findings(rows, matches, REASON, config.action, "the same as {where}")
    return report(rows, matches, config.scope)


def _digests(conversations: Sequence[Conversation], config: ExactDuplicatesConfig) -> list[bytes]:
    return [digest(conversation, config.scope, weights=True) for conversation in conversations]
