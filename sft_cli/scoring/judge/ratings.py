"""Rate answers on a scale, by general criteria, by a user's rubric, or turn by turn as in MT-Bench."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sft_cli.scoring.judge.answer_checks import check_answers
from sft_cli.scoring.judge.audit import (
    JudgeAudit,
    Labels,
    ProbeRates,
    audit_limits,
    label_agreement,
    length_correlation,
    probe_items,
)
from sft_cli.scoring.judge.pairwise import NULL_ANSWER, first_half
from sft_cli.scoring.judge.prompts import rating
from sft_cli.scoring.judge.replies import has_rating
from sft_cli.scoring.judge.results import JudgeResult
from sft_cli.scoring.judge.session import JudgeSession
from sft_cli.scoring.judge.settings import JudgeLimits
from sft_cli.scoring.statistics import Estimate, estimate_mean
from sft_cli.scoring.types import Answer, Item, Verdict


@dataclass(frozen=True, slots=True)
class Rubric:
    """How answers are rated.

    Attributes:
        text: What the ratings mean; empty takes the general criteria. ``fields["rubric"]`` of an item comes first.
        low: Lowest rating.
        high: Highest rating.
    """

    text: str = ""
    low: float = 1.0
    high: float = 10.0


def judge_ratings(
    session: JudgeSession,
    items: Sequence[Item],
    answers: Sequence[Answer],
    rubric: Rubric,
    *,
    limits: JudgeLimits,
    labels: Labels | None = None,
) -> JudgeResult:
    """Rate answers, and audit the judge.

    A null answer wins where it is rated at least in the middle of the scale; a truncated one, where it is rated above
    the whole answer.

    Args:
        session: The judge.
        items: The items.
        answers: The answer to each item.
        rubric: How they are rated.
        limits: Limits of the audit.
        labels: Ratings by the id of an item, from people.
    """
    texts = [answer.text for answer in answers]
    ratings = _rate(session, rubric, items, texts)
    judged = [(item, text, value) for item, text, value in zip(items, texts, ratings, strict=True) if value is not None]
    values = [value for _, _, value in judged]
    clusters = [item.cluster for item, _, _ in judged]
    failures, asked = session.parse_failures
    rounded = {name: str(round(float(label))) for name, label in (labels or {}).items()}
    audit = JudgeAudit(
        length_slope=length_correlation(values, [len(text) for _, text, _ in judged]),
        **_probes(session, rubric, items, texts, ratings),
        **label_agreement({item.id: str(round(value)) for item, _, value in judged}, rounded),
        **check_answers(items, texts),
        parse_failures=failures / asked if asked else None,
    )
    verdicts = [
        Verdict({}, "the judge gave no verdict", label="no verdict") if value is None else Verdict({"rating": value})
        for value in ratings
    ]
    measured = {"rating": estimate_mean(values, clusters), **_by_turn([(item, value) for item, _, value in judged])}
    return JudgeResult(verdicts, measured, audit, audit_limits(audit, limits), session.usage)


def rate_by_references(
    session: JudgeSession,
    items: Sequence[Item],
    answers: Sequence[Answer],
    references: Mapping[str, str],
    rubric: Rubric,
) -> Mapping[str, Estimate]:
    """Return the ratings of the same answers by the items' own references, and by others.

    Args:
        session: The judge.
        items: The items.
        answers: The answer to each item.
        references: Other references by the id of an item; the other items are left out.
        rubric: How the answers are rated.
    """
    pairs = [(item, answer.text) for item, answer in zip(items, answers, strict=True) if item.id in references]
    chosen, texts = [item for item, _ in pairs], [text for _, text in pairs]
    others = [replace(item, target=(references[item.id],)) for item in chosen]
    found = {}
    for name, asked in (("rating_own_references", chosen), ("rating_file_references", others)):
        ratings = zip(chosen, _rate(session, rubric, asked, texts), strict=True)
        rated = [(item.cluster, value) for item, value in ratings if value is not None]
        found[name] = estimate_mean([value for _, value in rated], [cluster for cluster, _ in rated])
    return found


def _by_turn(rated: Sequence[tuple[Item, float]]) -> Mapping[str, Estimate]:
    """Return the rating of each turn of items that have several."""
    turns = sorted({item.tags["turn"] for item, _ in rated if "turn" in item.tags})
    return {
        f"rating_turn_{turn}": estimate_mean([value for item, value in rated if item.tags.get("turn") == turn])
        for turn in turns
    }


def _rate(session: JudgeSession, rubric: Rubric, items: Sequence[Item], texts: Sequence[str]) -> list[float | None]:
    """Return the rating of each answer; None where the judge gave none."""
    scale = rubric.low, rubric.high
    requests = [
        rating(item, text, scale, str(item.fields.get("rubric") or rubric.text))
        for item, text in zip(items, texts, strict=True)
    ]
    replies = session.ask(requests, has_rating(*scale))
    return [None if reply is None else float(reply["rating"]) for reply in replies]


def _probes(
    session: JudgeSession,
    rubric: Rubric,
    items: Sequence[Item],
    texts: Sequence[str],
    ratings: Sequence[float | None],
) -> ProbeRates:
    """Return how often a null answer gets a middling rating, and half an answer more than the whole."""
    places = probe_items(items, session.settings.probes)
    null = _rate(session, rubric, [items[place] for place in places], [NULL_ANSWER] * len(places))
    halves = {place: half for place in places if (half := first_half(texts[place]))}
    cut = _rate(session, rubric, [items[place] for place in halves], list(halves.values()))
    middle = (rubric.low + rubric.high) / 2
    passed = [value >= middle for value in null if value is not None]
    pairs = [(half, ratings[place]) for place, half in zip(halves, cut, strict=True)]
    above = [half > whole for half, whole in pairs if half is not None and whole is not None]
    return ProbeRates(
        null_wins=sum(passed) / len(passed) if passed else None,
        truncated_wins=sum(above) / len(above) if above else None,
        reworded_wins=None,
    )
