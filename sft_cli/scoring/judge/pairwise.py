"""Compare answers with those of a baseline: each pair in both orders; verdicts that depend on the order are ties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft_cli.scoring.judge.answer_checks import check_answers
from sft_cli.scoring.judge.audit import (
    JudgeAudit,
    Labels,
    ProbeRates,
    audit_limits,
    decided_by_length,
    label_agreement,
    probe_items,
)
from sft_cli.scoring.judge.length_control import fit_length_control
from sft_cli.scoring.judge.prompts import comparison
from sft_cli.scoring.judge.replies import has_winner
from sft_cli.scoring.judge.results import JudgeResult
from sft_cli.scoring.judge.session import JudgeSession
from sft_cli.scoring.judge.settings import JudgeLimits
from sft_cli.scoring.judge.style_control import fit_style_control
from sft_cli.scoring.statistics import estimate_mean
from sft_cli.scoring.types import Answer, Item, Verdict

NULL_ANSWER = "Thank you for the question. I have read it."
"""An answer without content, which a sound judge never prefers."""
LABELS = {1.0: "win", 0.5: "tie", 0.0: "loss"}


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """The verdict of one pair in both orders.

    Attributes:
        win: 1 if the first answer wins, 0 if it loses, 0.5 for a tie; None if a reply had no verdict.
        flipped: Whether the two orders gave different verdicts.
        first_shown: How often the answer that was shown first won, of ``decided``.
        decided: Number of the two replies that named a winner.
        reason: The judge's explanation.
    """

    win: float | None
    flipped: bool = False
    first_shown: int = 0
    decided: int = 0
    reason: str = ""


def compare_pairs(
    session: JudgeSession, items: Sequence[Item], first: Sequence[str], second: Sequence[str], criteria: str = ""
) -> list[PairVerdict]:
    """Return the verdict of each pair of answers.

    Args:
        session: The judge.
        items: The items.
        first: An answer to each item, whose wins count.
        second: The other answer to each item.
        criteria: What counts, instead of the general criteria.
    """
    pairs = list(zip(items, first, second, strict=True))
    requests = [comparison(item, a, b, criteria) for item, a, b in pairs]
    requests += [comparison(item, b, a, criteria) for item, a, b in pairs]
    replies = session.ask(requests, has_winner)
    verdicts = []
    for straight, swapped in zip(replies[: len(pairs)], replies[len(pairs) :], strict=True):
        if straight is None or swapped is None:
            verdicts.append(PairVerdict(None, reason="the judge gave no verdict"))
            continue
        winners = straight["winner"], swapped["winner"]
        wins = {"A": 1.0, "B": 0.0, "tie": 0.5}[winners[0]], {"A": 0.0, "B": 1.0, "tie": 0.5}[winners[1]]
        shown, decided = sum(w == "A" for w in winners), sum(w != "tie" for w in winners)
        win = wins[0] if wins[0] == wins[1] else 0.5
        reason = str(straight.get("explanation", "")) if win == wins[0] else "the verdict depends on the order"
        verdicts.append(PairVerdict(win, wins[0] != wins[1], shown, decided, reason))
    return verdicts


def judge_pairs(
    session: JudgeSession,
    items: Sequence[Item],
    answers: Sequence[Answer],
    baseline: Sequence[str],
    *,
    limits: JudgeLimits,
    labels: Labels | None = None,
    criteria: str = "",
) -> JudgeResult:
    """Judge answers against those of a baseline, and audit the judge.

    Args:
        session: The judge.
        items: The items; ``fields["reworded"]``, if present, is the baseline's answer in other words.
        answers: The answer to each item.
        baseline: The baseline's answer to each item.
        limits: Limits of the audit.
        labels: ``win``, ``tie`` or ``loss`` by the id of an item, from people.
        criteria: What counts, instead of the general criteria.
    """
    texts = [answer.text for answer in answers]
    found = compare_pairs(session, items, texts, baseline, criteria)
    verdicts = [_verdict(verdict) for verdict in found]
    judged = [place for place, verdict in enumerate(found) if verdict.win is not None]
    wins = [float(verdict.win) for verdict in found if verdict.win is not None]
    clusters = [items[place].cluster for place in judged]
    lengths = [len(texts[place]) - len(baseline[place]) for place in judged]
    control = fit_length_control(wins, lengths)
    audit = JudgeAudit(
        flips=estimate_mean([float(found[place].flipped) for place in judged], clusters),
        first_shown=_share(sum(v.first_shown for v in found), sum(v.decided for v in found)),
        longer_wins=decided_by_length(wins, lengths),
        length_slope=control.slope if control else None,
        **_probes(session, items, texts, baseline, criteria),
        **label_agreement({items[place].id: LABELS[wins[i]] for i, place in enumerate(judged)}, labels or {}),
        **check_answers(items, texts),
        parse_failures=_share(*session.parse_failures),
    )
    measured = {"win_rate": estimate_mean(wins, clusters)}
    if control is not None:
        measured["win_rate_minimal_lc"] = control.win_rate
    style = fit_style_control(wins, [texts[place] for place in judged], [baseline[place] for place in judged])
    if style is not None:
        measured["win_rate_style_controlled"] = style.win_rate
    return JudgeResult(verdicts, measured, audit, audit_limits(audit, limits), session.usage)


def _verdict(pair: PairVerdict) -> Verdict:
    """Return the verdict of an item."""
    if pair.win is None:
        return Verdict({}, pair.reason, label="no verdict")
    return Verdict({"win": pair.win}, pair.reason if pair.win < 1 else "", label=LABELS[pair.win])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _probes(
    session: JudgeSession, items: Sequence[Item], texts: Sequence[str], baseline: Sequence[str], criteria: str
) -> ProbeRates:
    """Return the win rates of null answers against the baseline, and of halves against the whole answers."""
    places = probe_items(items, session.settings.probes)

    def win_rate(first: Mapping[int, str], second: Sequence[str]) -> float | None:
        """Return the win rate of answers by place against those of ``second``; None without verdicts."""
        chosen = list(first)
        pairs = compare_pairs(
            session, [items[p] for p in chosen], list(first.values()), [second[p] for p in chosen], criteria
        )
        wins = [pair.win for pair in pairs if pair.win is not None]
        return sum(wins) / len(wins) if wins else None

    reworded = {place: str(items[place].fields["reworded"]) for place in places if "reworded" in items[place].fields}
    return ProbeRates(
        null_wins=win_rate(dict.fromkeys(places, NULL_ANSWER), baseline),
        truncated_wins=win_rate({place: half for place in places if (half := first_half(texts[place]))}, texts),
        reworded_wins=win_rate(reworded, baseline) if reworded else None,
    )


def first_half(text: str) -> str:
    """Return the first half of the words of a text; empty if it has fewer than eight."""
    words = text.split(" ")
    return " ".join(words[: len(words) // 2]) if len(words) >= 8 else ""
