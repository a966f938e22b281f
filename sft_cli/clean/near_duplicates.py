"""Rows that are almost the same, by the words of what is asked or of question and answer."""

from sft_cli.clean import minhash, rouge
from sft_cli.clean.base import Finding, Rows
from sft_cli.clean.clusters import findings, report
from sft_cli.config.schema.clean import Method, NearDuplicatesConfig
from sft_cli.utils.optional_deps import needs

REASON = "near duplicate"


def check(config: NearDuplicatesConfig) -> None:
    """Refuse MinHash where its library is not installed."""
    if config.method is Method.minhash:
        needs("rensa", "near_duplicates")


def find(rows: Rows, config: NearDuplicatesConfig) -> Finding:
    """The rows that are as similar as ``config.threshold``, or more, to a row that is kept.

    Rows are taken best first: held out before others, then by priority, then in their order. Each is kept unless a row
    kept before it is similar enough; the first such row is named. So no row is dropped through a chain: each is
    similar to the very row it is dropped for, and no two rows that are kept are similar (by ``minhash`` but for the
    share of pairs that MinHash misses, under 1% at the threshold; ``rouge_l`` misses none). A second pass finds
    nothing. Rows without any word (emoji, token ids) are similar to none.

    Returns a report of clusters (see clusters.py).
    """
    check(config)
    method = {Method.minhash: minhash.matches, Method.rouge_l: rouge.matches}[config.method]
    matches = method(rows, config)
    yield from findings(rows, matches, REASON, config.action, "similarity {similarity} to {where}")
    return report(rows, matches, config.scope)
