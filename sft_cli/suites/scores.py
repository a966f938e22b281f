"""The scores of a suite: from verdicts of answers to metrics with intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sft_cli.config.rules.suites import REDUCER
from sft_cli.config.schema.suites import SuiteKind
from sft_cli.scoring.behaviour import behaviour_card
from sft_cli.scoring.statistics import estimate_mean, pass_at_k
from sft_cli.scoring.text_perplexity import bits_per_byte
from sft_cli.scoring.types import Answer, Item, Scorer, Verdict
from sft_cli.suites.choices import score_choices
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.memorisation import memorisation_verdict, memorised
from sft_cli.suites.scorers import suite_scorer
from sft_cli.suites.texts import text_metrics
from sft_cli.suites.variant_scores import variant_scores

COMPLETE = 1.0
"""The score of an answer that pass@k counts as right."""


@dataclass(frozen=True, slots=True)
class ScoredSuite:
    """The verdicts of a suite, and its scores as ``scores.json`` holds them."""

    verdicts: list[dict[str, Any]]
    scores: dict[str, Any]


def score_suite(suite: LoadedSuite, records: Sequence[Mapping[str, Any]]) -> ScoredSuite:
    """Score the answers of a suite.

    Args:
        suite: The suite with its items.
        records: Lines of ``answers.jsonl`` of these items.
    """
    items = {entry.item.id: entry for entry in suite.items}
    is_text = suite.config.kind is SuiteKind.perplexity
    scorer = suite_scorer(suite.name, suite.config) if suite.config.kind is SuiteKind.generate else None
    verdicts = [_verdict(scorer, items[str(record["id"])], record) for record in records]
    lines = [_verdict_line(record, verdict) for record, verdict in zip(records, verdicts, strict=True)]
    answered: dict[str, list[tuple[Mapping[str, Any], Verdict]]] = {}
    for record, verdict in zip(records, verdicts, strict=True):
        answered.setdefault(str(record["id"]), []).append((record, verdict))
    values = {id: item_scores(suite.config.reduce, answers) for id, answers in answered.items()}
    chosen = [items[id].item for id in values]
    summary = {} if scorer is None else scorer.summarize([items[str(r["id"])].item for r in records], verdicts)
    scores = {
        "metrics": {
            **_metrics(chosen, values),
            **(text_metrics(records) if is_text else {}),
            **(memorised(records) if suite.config.kind is SuiteKind.memorisation else {}),
            **{name: _figure(value, None, None, len(values), None) for name, value in summary.items()},
        },
        "by_tag": _by_tag(chosen, values),
        "counts": _counts(suite, records, verdicts, len(values)),
    }
    if variants := variant_scores([items[id] for id in values], values):
        scores["variants"] = variants
    if scorer is not None:
        answers = answered_items(suite, records)
        scores["behaviour"] = behaviour_card([item for item, _ in answers], [answer for _, answer in answers])
    return ScoredSuite(lines, scores)


def answered_items(suite: LoadedSuite, records: Sequence[Mapping[str, Any]]) -> list[tuple[Item, Answer]]:
    """Return the item and the answer of each line of answers."""
    items = {entry.item.id: entry.item for entry in suite.items}
    return [(items[str(record["id"])], _answer(record)) for record in records]


def _answer(record: Mapping[str, Any]) -> Answer:
    """Return the answer of a line of answers."""
    return Answer(record["answer"], record["reasoning"], record["stopped"], record["num_tokens"])


def _verdict(scorer: Scorer | None, entry: SuiteItem, record: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a line of answers."""
    if "expected_tokens" in record:
        return memorisation_verdict(record)
    if "nats" in record:
        return Verdict({"bits_per_byte": bits_per_byte(record["nats"], record["scored_bytes"])})
    if scorer is None:
        return score_choices(entry, record["choices"])
    return scorer.score(entry.item, _answer(record))


def _verdict_line(record: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    return {
        "id": record["id"],
        "sample": record["sample"],
        "scores": dict(verdict.scores),
        "label": verdict.label,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
    }


def item_scores(reduce: Sequence[str], answers: Sequence[tuple[Mapping[str, Any], Verdict]]) -> dict[str, float]:
    """Return the scores of one item from those of its answers, by metric and reducer.

    Args:
        reduce: Names of the reducers.
        answers: The lines of the answers to the item, each with its verdict.
    """
    names = dict.fromkeys(name for _, verdict in answers for name in verdict.scores)
    values: dict[str, float] = {}
    for name in names:
        scores = [verdict.scores[name] for _, verdict in answers if name in verdict.scores]
        for reducer in reduce:
            match = REDUCER.fullmatch(reducer)
            if match is not None and match[1]:
                right = sum(score >= COMPLETE for score in scores)
                values[f"{name}_{reducer}"] = pass_at_k(len(scores), right, min(len(scores), int(match[1])))
            elif reducer == "majority":
                values[f"{name}_majority"] = _majority(name, answers)
            else:
                values[name] = sum(scores) / len(scores)
    return values


def _majority(name: str, answers: Sequence[tuple[Mapping[str, Any], Verdict]]) -> float:
    """Return the score of the most frequent answer; of equally frequent ones, the first."""
    keys = [verdict.extracted if verdict.extracted is not None else record["answer"] for record, verdict in answers]
    most = max(Counter(keys).items(), key=lambda pair: (pair[1], -keys.index(pair[0])))[0]
    return next((v.scores.get(name, 0.0) for key, (_, v) in zip(keys, answers, strict=True) if key == most), 0.0)


def _metrics(items: Sequence[Item], values: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return every metric over some items, with its interval."""
    names = dict.fromkeys(name for item in items for name in values[item.id])
    found = {}
    for name in names:
        having = [item for item in items if name in values[item.id]]
        scores = [values[item.id][name] for item in having]
        found[name] = asdict(estimate_mean(scores, [item.cluster for item in having]))
    return found


def _figure(value: float, low: float | None, high: float | None, n: int, clusters: int | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, "clusters": clusters}


def _by_tag(items: Sequence[Item], values: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each value of each tag."""
    groups: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        for tag, value in item.tags.items():
            groups.setdefault(tag, {}).setdefault(value, []).append(item)
    return {
        tag: {value: _metrics(members, values) for value, members in sorted(found.items())}
        for tag, found in sorted(groups.items())
    }


def _counts(
    suite: LoadedSuite, records: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], answered: int
) -> dict[str, Any]:
    """Return the numbers of items, and of answers by how they ended and by label."""
    counts: dict[str, Any] = {"items": len(suite.items), "answered": answered, "answers": len(records)}
    if suite.config.kind is SuiteKind.choices:
        counts["cut"] = sum(record.get("cut", False) for record in records)
        counts["merged"] = sum(choice["merged"] for record in records for choice in record["choices"])
    elif suite.config.kind is SuiteKind.perplexity:
        counts["tokens"] = sum(record["scored_tokens"] for record in records)
        counts["bytes"] = sum(record["scored_bytes"] for record in records)
    else:
        counts["stopped"] = sum(record["stopped"] for record in records)
        counts["empty"] = sum(not record["answer"].strip() for record in records)
        if cut := sum(record.get("cut", False) for record in records):
            counts["cut"] = cut
        counts["tokens"] = sum(record["num_tokens"] for record in records)
    labels = Counter(verdict.label for verdict in verdicts if verdict.label)
    return counts | ({"labels": dict(sorted(labels.items()))} if labels else {})
