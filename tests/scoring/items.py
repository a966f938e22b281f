"""Items, and the score of one answer to one."""

from typing import Any

from sft_cli.scoring.registry import make_scorer
from sft_cli.scoring.types import Answer, Item, Verdict


def item(*target: str, question: str = "Q?", id: str = "1", cluster: str = "", tags=None, **fields: Any) -> Item:
    return Item(id, ({"role": "user", "content": question},), target, fields, cluster, tags or {})


def verdict(metric: str, answer: str, *target: str, options=None, **fields: Any) -> Verdict:
    return make_scorer(metric, options or {}, "metric").score(item(*target, **fields), Answer(answer))


def score(metric: str, answer: str, *target: str, options=None, **fields: Any) -> float:
    """The first score of an answer."""
    return next(iter(verdict(metric, answer, *target, options=options, **fields).scores.values()))


HOSTILE = ["", "\0", "\0" * 1000, "9" * 1_000_000, "[" * 100_000, "a " * 30_000, "\ud800", "((((" * 5000, "\u202e1"]
"""Answers that no metric may fail on, and that no metric may take long for."""
