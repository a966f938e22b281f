"""Filter by scores in a column (from a judge): keep the rows above a threshold, or the best of each source.

Held-out rows are not filtered by their scores.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean.base import Finding, Findings, RowView
from sft_cli.config.schema.clean import QualityConfig
from sft_cli.data.codec import content_digest, encode_conversation
from sft_cli.data.row_errors import format_list
from sft_cli.errors import SftError
from sft_cli.types import Conversation
from sft_cli.utils.similar import closest_name

UNSCORED, TOO_LOW, NOT_BEST = "no score", "score too low", "not among the best"


class RowScore(NamedTuple):
    """A row's score (NaN without one), a number from its content, its source, and the names of its scores."""

    score: float
    content: int
    source: str
    names: tuple[str, ...]


def check_quality(config: QualityConfig) -> None:
    """Refuse settings without effect."""
    if config.min_score is None and config.top_k is None:
        raise SftError(
            where="clean.quality",
            problem="neither min_score nor top_k is set, so no row would be dropped",
            fix="clean.quality.top_k=1000, or clean.quality.min_score=NUMBER, or remove quality from clean.steps",
        )


def find_quality(rows: RowView, config: QualityConfig) -> Findings:
    """Return a finding for each dropped row, and the report.

    ``top_k`` counts the rows that ``min_score`` kept; equal scores are ordered by content, so that the order of the
    files does not matter. The report has ``score``, ``reasons`` (reason -> rows) and ``quartiles`` of the scores.

    Raises:
        SftError: No row has the score.
    """
    check_quality(config)
    return _find(rows, config)


def _find(rows: RowView, config: QualityConfig) -> Findings:
    """Yield the findings of ``find_quality``; three numbers per row are kept in memory."""
    score, content = np.full(len(rows), math.nan), np.zeros(len(rows), np.uint64)
    source, sources = np.zeros(len(rows), np.int32), dict[str, int]()
    names: set[str] = set()
    for start, batch in rows.map(row_scores, config):
        for index, row in enumerate(batch, start):
            score[index], content[index] = row.score, row.content
            source[index] = sources.setdefault(row.source, len(sources))
            names.update(row.names)
    scored = ~np.isnan(score)
    if len(rows) and not scored.any():
        raise _no_score(config.score, names, next(iter(sources)))
    reasons: dict[str, int] = dict.fromkeys((UNSCORED, TOO_LOW, NOT_BEST), 0)
    held_out = rows.held_out
    best = _best(score, content, source, held_out, config)
    for index in np.flatnonzero(~held_out):
        finding = _finding(int(index), float(score[index]), bool(best[index]), config)
        if finding is not None:
            assert finding.reason is not None
            reasons[finding.reason] += 1
            yield finding
    return {"score": config.score, "reasons": reasons, "quartiles": _quartiles(score[scored])}


def row_scores(conversations: Sequence[Conversation], config: QualityConfig) -> list[RowScore]:
    """Return score, content number, source and score names of each conversation."""
    return [
        RowScore(
            conversation.scores.get(config.score, math.nan),
            int.from_bytes(content_digest(encode_conversation(conversation))[:8]),
            conversation.source,
            tuple(conversation.scores),
        )
        for conversation in conversations
    ]


def _best(
    score: NDArray[np.float64],
    content: NDArray[np.uint64],
    source: NDArray[np.int32],
    held_out: NDArray[np.bool_],
    config: QualityConfig,
) -> NDArray[np.bool_]:
    """Return ``(rows,)`` whether a row is among its source's ``top_k`` of those that ``min_score`` keeps.

    Args:
        score: ``(rows,)`` scores.
        content: ``(rows,)`` numbers from the content, which break ties.
        source: ``(rows,)`` numbers of the sources.
        held_out: ``(rows,)`` whether a row is held out.
        config: The settings.
    """
    if config.top_k is None:
        return np.ones(len(score), np.bool_)
    eligible = np.flatnonzero(~np.isnan(score) & ~held_out)
    if config.min_score is not None:
        eligible = eligible[score[eligible] >= config.min_score]
    eligible = eligible[np.lexsort((content[eligible], -score[eligible], source[eligible]))]
    _, starts = np.unique(source[eligible], return_index=True)
    first = np.zeros(len(eligible), np.int64)
    first[starts] = starts
    rank = np.arange(len(eligible)) - np.maximum.accumulate(first)
    best = np.zeros(len(score), np.bool_)
    best[eligible[rank < config.top_k]] = True
    return best


def _finding(index: int, score: float, best: bool, config: QualityConfig) -> Finding | None:
    """Return the finding of a dropped row; None if it is kept.

    Args:
        index: Number of the row.
        score: Its score.
        best: Whether it is among the best of its source.
        config: The settings.
    """
    if math.isnan(score):
        return None if config.keep_unscored else Finding(index, UNSCORED, f"the row has no {config.score}")
    if config.min_score is not None and score < config.min_score:
        return Finding(index, TOO_LOW, f"{config.score} {score:g}, below {config.min_score:g}", score)
    if not best:
        return Finding(
            index, NOT_BEST, f"{config.score} {score:g}, not among the {config.top_k} best of its source", score
        )
    return None


def _quartiles(scores: NDArray[np.float64]) -> list[float]:
    """Return minimum, quartiles and maximum; an empty list without scores."""
    return [float(value) for value in np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])] if len(scores) else []


def _no_score(name: str, names: set[str], source: str) -> SftError:
    """Return the error for a score that no row has; ``source`` is that of the first row."""
    near = closest_name(name, names)
    available = f"; the rows have {format_list(sorted(names))}" if names else ""
    fix = f"set its column: data.mix.{source}.scores.{name}=COLUMN"
    return SftError(
        where=f"clean.quality.score={name}",
        problem=f"no row has the score {name!r}{available}",
        fix=f"did you mean {near}? Otherwise {fix}" if near else fix,
    )
