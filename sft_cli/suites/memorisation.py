"""Scores of memorisation: how far a model continues answers word for word, of trained rows and of held-out ones.

The first half of an answer is given, and the model generates greedily (Carlini et al., 2023, arXiv:2202.07646: a text
is extractable if the model continues its prefix word for word). What a model knows anyway, it also continues of
held-out rows and without training; so both are measured, and the difference is what was memorised.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.scoring.distributions import normal_quantile
from sft_cli.scoring.statistics import CONFIDENCE
from sft_cli.scoring.types import Item, Verdict
from sft_cli.suites.items import LoadedSuite, SuiteItem

TRAINED, HELD_OUT = "trained", "heldout"
"""Values of the tag ``split``."""


def memorisation_verdict(record: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a line: ``verbatim``, and ``continued``, the share of tokens before the first other one.

    Each has the name of the split before it, such as ``trained_verbatim``.
    """
    matched, expected = record["matched_tokens"], record["expected_tokens"]
    split = record["tags"]["split"]
    return Verdict({f"{split}_verbatim": float(matched == expected), f"{split}_continued": matched / expected})


def memorised(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return how many more trained answers than held-out ones are continued word for word; empty without either.

    The interval is that of a difference of two independent shares, with the correction of Agresti and Caffo (2000).
    """
    right = {
        split: [one["matched_tokens"] == one["expected_tokens"] for one in records if one["tags"]["split"] == split]
        for split in (TRAINED, HELD_OUT)
    }
    if not all(right.values()):
        return {}
    counts = {split: (sum(found), len(found)) for split, found in right.items()}
    value = counts[TRAINED][0] / counts[TRAINED][1] - counts[HELD_OUT][0] / counts[HELD_OUT][1]
    shares = {split: ((hits + 1) / (n + 2), n + 2) for split, (hits, n) in counts.items()}
    centre = shares[TRAINED][0] - shares[HELD_OUT][0]
    width = normal_quantile((1 + CONFIDENCE) / 2) * math.sqrt(sum(p * (1 - p) / n for p, n in shares.values()))
    n = sum(size for _, size in counts.values())
    low, high = max(-1.0, centre - width), min(1.0, centre + width)
    return {"memorised": {"value": value, "low": low, "high": high, "n": n, "clusters": n}}


def answered_suite(name: str, suite: SuiteConfig, records: Sequence[Mapping[str, Any]], data: str) -> LoadedSuite:
    """Return a suite of memorisation with the items of its answers, without the training data.

    Args:
        name: Name of the suite.
        suite: Its definition.
        records: Its lines of answers.jsonl.
        data: Fingerprint of its data.
    """
    items = [
        SuiteItem(
            Item(
                str(record["id"]),
                ({"role": "user", "content": str(record["prompt"])},),
                (str(record["expected"]),),
                tags=dict(record["tags"]),
            ),
            str(record["where"]),
        )
        for record in records
    ]
    return LoadedSuite(name, suite, tuple(items), data, len(items), len(items), "")
