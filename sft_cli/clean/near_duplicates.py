"""Rows that are almost the same, by the words of what is asked or of question and answer."""

from sft_cli.clean import minhash, rouge
from sft_cli.clean.base import Findings, RowView
from sft_cli.clean.clusters import cluster_report, duplicate_findings
from sft_cli.config.schema.clean import Method, NearDuplicatesConfig
from sft_cli.utils.optional_deps import needs

REASON = "near duplicate"


def check_near_duplicates(config: NearDuplicatesConfig) -> None:
    """Refuse a method whose library is not installed."""
    needs("rensa" if config.method is Method.minhash else "rapidfuzz", "near_duplicates")


def find_near_duplicates(rows: RowView, config: NearDuplicatesConfig) -> Findings:
    """The rows that are as similar as ``config.threshold``, or more, to a row that is kept.

    Rows are taken best first: held out before others, then by priority, then in their order. Each is kept unless a row
    kept before it is similar enough; the first such row is named. So no row is dropped through a chain: each is
    similar to the very row it is dropped for, and no two rows that are kept are similar (by ``minhash`` but for the
    share of pairs that MinHash misses, under 1% at the threshold; ``rouge_l`` misses none). A second pass finds
    nothing. Rows without any word (emoji, token ids) are similar to none.

    Returns a report of clusters (see clusters.py).
    """
    check_near_duplicates(config)
    method = {Method.minhash: minhash.minhash_duplicates, Method.rouge_l: rouge.rouge_duplicates}[config.method]
    matches = method(rows, config)
    yield from duplicate_findings(rows, matches, REASON, config.action, "similarity {similarity} to {where}")
    return cluster_report(rows, matches, config.scope)
