"""Training rows that are also held out: what is learned by heart would be taken for what is understood."""

from collections.abc import Sequence

import numpy as np

from sft_cli.clean.base import Finding, Rows
from sft_cli.clean.clusters import Matches, findings, report
from sft_cli.clean.row_keys import digest, digests, winners
from sft_cli.config.schema.clean import Action, LeakageConfig
from sft_cli.types import Conversation

REASON = "also held out"


def find(rows: Rows, config: LeakageConfig) -> Finding:
    """The rows not held out that are the same, by ``config.scope``, as one that is; held-out rows always stay.

    Returns a report of clusters (see clusters.py), or None where nothing is held out.
    """
    if not rows.held_out.any() or rows.held_out.all():
        return None
    kept = winners(digests(rows, _digests, config), rows)
    own = np.arange(len(rows))
    leaked = ~rows.held_out & rows.held_out[kept]
    matches = Matches(np.where(leaked, kept, own), np.ones(len(rows), np.float32))
    yield from findings(rows, matches, REASON, Action.drop, "also held out as {where}")
    return report(rows, matches, config.scope)


def _digests(conversations: Sequence[Conversation], config: LeakageConfig) -> list[bytes]:
    return [digest(conversation, config.scope) for conversation in conversations]
