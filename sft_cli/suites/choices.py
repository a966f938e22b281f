"""The verdict of a multiple-choice item from the log-likelihoods of its choices."""

from collections.abc import Mapping, Sequence
from typing import Any

from sft_cli.scoring.types import Verdict
from sft_cli.suites.items import SuiteItem

LM_EVAL = "lm_eval"
"""Prefix of the scores that lm-evaluation-harness would give."""


def score_choices(entry: SuiteItem, choices: Sequence[Mapping[str, Any]]) -> Verdict:
    """Return whether the most likely choice is the correct one: ``acc``, and ``acc_norm`` by likelihood per byte.

    ``lm_eval_acc`` and ``lm_eval_acc_norm`` use the log-likelihoods of lm-evaluation-harness, which divides by
    characters, if they were computed.
    """
    logprobs = [choice["logprob"] for choice in choices]
    per_byte = [choice["logprob"] / max(1, choice["num_bytes"]) for choice in choices]
    chosen = _largest(logprobs)
    scores = {"acc": float(chosen == entry.gold), "acc_norm": float(_largest(per_byte) == entry.gold)}
    if all(LM_EVAL in choice for choice in choices):
        theirs = [choice[LM_EVAL]["logprob"] for choice in choices]
        per_character = [value / max(1, len(text)) for value, text in zip(theirs, entry.choices, strict=True)]
        scores[f"{LM_EVAL}_acc"] = float(_largest(theirs) == entry.gold)
        scores[f"{LM_EVAL}_acc_norm"] = float(_largest(per_character) == entry.gold)
    right = chosen == entry.gold
    reason = "" if right else f"the most likely choice is {entry.choices[chosen]!r}, not {entry.choices[entry.gold]!r}"
    return Verdict(scores, reason, entry.choices[chosen])


def _largest(values: Sequence[float]) -> int:
    """Return the index of the largest value; of equal ones, the first."""
    return max(range(len(values)), key=lambda index: (values[index], -index))
