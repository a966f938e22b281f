"""Find rows that are almost equal, by the words of the prompt, or of prompt and answer."""

from sft_cli.clean import minhash, rouge
from sft_cli.clean.base import Findings, RowView, require_library
from sft_cli.clean.clusters import cluster_report, duplicate_findings
from sft_cli.config.schema.clean import Method, NearDuplicatesConfig

REASON = "near duplicate"


def check_near_duplicates(config: NearDuplicatesConfig) -> None:
    """Refuse a method whose library is not installed."""
    require_library("near_duplicates", "rensa" if config.method is Method.minhash else "rapidfuzz")


def find_near_duplicates(rows: RowView, config: NearDuplicatesConfig) -> Findings:
    """Yield the rows whose similarity to a kept row is ``config.threshold`` or more.

    Rows are considered in order of preference: held-out rows first, then by priority, then by position. A row is kept
    unless it is similar to a row kept before it; the finding names the first such row. So each dropped row is similar
    to the row that it is dropped for, not through a chain, and no two kept rows are similar (``minhash`` misses under
    1% of the pairs at the threshold; ``rouge_l`` misses none). A second pass finds nothing. Rows without words (emoji,
    token ids) are similar to no row.

    Returns:
        A report of clusters (see clusters.py).
    """
    check_near_duplicates(config)
    method = {Method.minhash: minhash.minhash_duplicates, Method.rouge_l: rouge.rouge_duplicates}[config.method]
    matches = method(rows, config)
    yield from duplicate_findings(rows, matches, REASON, config.action, "similarity {similarity} to {where}")
    return cluster_report(rows, matches, config.scope)
