"""The audit of a judge: what its verdicts depend on apart from quality, and which limits that exceeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from sft_cli.scoring.judge.agreement import cohens_kappa
from sft_cli.scoring.judge.settings import JudgeLimits
from sft_cli.scoring.statistics import Estimate
from sft_cli.scoring.types import Item
from sft_cli.utils.hashing import blake2b_of_text
from sft_cli.utils.text import percent

Labels = Mapping[str, str | float]
"""Labels of people by the ids of items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeAudit:
    """What was measured about a judge and the answers; None is not measured.

    Attributes:
        flips: Share of pairs whose verdict depends on the order of the answers.
        first_shown: Share of decided replies in which the answer shown first won; 0.5 without a preference.
        longer_wins: Share of decided pairs that the longer answer won.
        length_slope: Of pairs, the slope of ``fit_length_control``; of ratings, their correlation with length.
        null_wins: Win rate of an answer without content against the baseline.
        truncated_wins: Win rate of the first half of an answer against the whole answer.
        reworded_wins: Win rate of a reworded baseline answer against the original.
        parse_failures: Share of requests that never got a verdict.
        labelled: Number of items with a label of people.
        agreement: Share of them in which the judge agrees.
        kappa: Cohen's kappa of judge and labels.
        repeated_answers: Share of unlike questions that were answered with one and the same text.
        judge_markers: Share of answers that contain markup of a judge's prompt.
    """

    flips: Estimate | None = None
    first_shown: float | None = None
    longer_wins: float | None = None
    length_slope: float | None = None
    null_wins: float | None = None
    truncated_wins: float | None = None
    reworded_wins: float | None = None
    parse_failures: float | None = None
    labelled: int = 0
    agreement: float | None = None
    kappa: float | None = None
    repeated_answers: float | None = None
    judge_markers: float | None = None


class LabelAgreement(TypedDict):
    """Agreement with labels, as fields of an audit."""

    labelled: int
    agreement: float | None
    kappa: float | None


class ProbeRates(TypedDict):
    """Win rates of answers made for the audit, as fields of an audit."""

    null_wins: float | None
    truncated_wins: float | None
    reworded_wins: float | None


def audit_limits(audit: JudgeAudit, limits: JudgeLimits) -> list[str]:
    """Return what exceeds the limits, one sentence each."""
    reworded = None if audit.reworded_wins is None else abs(audit.reworded_wins - 0.5)
    checks = (
        ("flips", audit.flips.value if audit.flips else None, limits.flips, "of the verdicts depend on the order"),
        ("null_wins", audit.null_wins, limits.null_wins, "is the win rate of an answer without content"),
        ("truncated_wins", audit.truncated_wins, limits.truncated_wins, "is the win rate of half an answer"),
        ("reworded_losses", reworded, limits.reworded_losses, "is the effect of rewording an answer"),
        ("parse_failures", audit.parse_failures, limits.parse_failures, "of the requests got no verdict"),
        ("repeated_answers", audit.repeated_answers, limits.repeated_answers, "of the questions have the same answer"),
        ("judge_markers", audit.judge_markers, limits.judge_markers, "of the answers imitate a judge's prompt"),
    )
    found = [
        f"{percent(value)} {text} (limit {name}: {percent(limit)})"
        for name, value, limit, text in checks
        if value is not None and value > limit
    ]
    if audit.length_slope is not None and audit.length_slope > limits.length_slope:
        slope = f"{audit.length_slope:.2f} (limit length_slope: {limits.length_slope:g})"
        found.append(f"wins depend on length: the slope of their log-odds is {slope}")
    if audit.kappa is not None and audit.kappa < limits.kappa:
        found.append(
            f"kappa with {audit.labelled} labels is {audit.kappa:.2f} (limit kappa: at least {limits.kappa:g})"
        )
    return found


def decided_by_length(wins: Sequence[float], lengths: Sequence[float]) -> float | None:
    """Return the share of decided pairs that the longer answer wins; None for fewer than ten.

    Args:
        wins: 1, 0.5 or 0 for each pair.
        lengths: Length of the answer less that of the other one.
    """
    decided = [(win > 0.5) == (length > 0) for win, length in zip(wins, lengths, strict=True) if win != 0.5 and length]
    return sum(decided) / len(decided) if len(decided) >= 10 else None


def length_correlation(values: Sequence[float], lengths: Sequence[float]) -> float | None:
    """Return the correlation of ratings and lengths; None for fewer than ten, or if either is constant."""
    if len(values) < 10 or not np.std(values) or not np.std(lengths):
        return None
    return float(np.corrcoef(values, lengths)[0, 1])


def label_agreement(judged: Mapping[str, str], labels: Labels) -> LabelAgreement:
    """Return the agreement of a judge with labels, on the items that have both."""
    shared = [name for name in judged if name in labels]
    first, second = [judged[name] for name in shared], [str(labels[name]) for name in shared]
    same = sum(a == b for a, b in zip(first, second, strict=True))
    agreement = same / len(shared) if shared else None
    return LabelAgreement(labelled=len(shared), agreement=agreement, kappa=cohens_kappa(first, second))


def probe_items(items: Sequence[Item], number: int) -> list[int]:
    """Return the indices of a number of items for probes; the same ones whatever the order of the items."""
    order = sorted(range(len(items)), key=lambda place: blake2b_of_text(items[place].id))
    return sorted(order[:number])
