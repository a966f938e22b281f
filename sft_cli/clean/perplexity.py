"""Scores by a model: the perplexity of the last answer, and how much the prompt helps to predict it.

``perplexity`` is e to the mean loss of the answer's tokens after the prompt; ``ifd``, instruction-following difficulty
(Li et al. 2023, arXiv:2308.12032), is that over the perplexity of the same tokens with nothing before them. Rows that
a source holds out itself, and those without an answer, are not scored and stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from sft_cli.clean.base import Finding, Findings, RowView
from sft_cli.clean.scorer import IFD, KEY, PERPLEXITY, Scorer, load_scorer
from sft_cli.config.schema.clean import PerplexityConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation

WINDOW = 128
"""Rows between two steps of the progress."""


def check_perplexity(config: PerplexityConfig) -> None:
    """Refuse what cannot be scored or kept; the model itself is looked at when the step begins."""
    errors = []
    if config.model is None:
        fix = f"set {KEY}.model=DIR_OR_HUB_ID, or model.path"
        errors.append(SftError(where=f"{KEY}.model", problem="no model is given to score with", fix=fix))
    if config.score not in (IFD, PERPLEXITY):
        problem = f"there is no score {config.score!r}"
        errors.append(SftError(where=f"{KEY}.score", problem=problem, fix=f"choose {IFD} or {PERPLEXITY}"))
    if config.min_score is not None and config.max_score is not None and config.min_score > config.max_score:
        problem = f"min_score is {config.min_score:g} and max_score is {config.max_score:g}: no row could stay"
        errors.append(SftError(where=f"{KEY}.min_score", problem=problem, fix="make max_score at least min_score"))
    if config.max_length > config.tokens_per_batch:
        problem = f"max_length is {config.max_length}, more than the {config.tokens_per_batch} tokens of a batch"
        fix = "raise tokens_per_batch or lower max_length"
        errors.append(SftError(where=f"{KEY}.max_length", problem=problem, fix=fix))
    raise_all(errors)


def find_perplexity(rows: RowView, config: PerplexityConfig) -> Findings:
    """A finding for each scored row: its score, and the conversation with the scores for by_difficulty.

    The report: ``model``, ``score``, ``max_length`` as it was used, ``scored`` and ``not_scored`` rows, ``reasons``
    (reason -> rows) and ``quartiles`` of the scores.
    """
    check_perplexity(config)
    return _find(rows, config)


def _find(rows: RowView, config: PerplexityConfig) -> Findings:
    """See ``find_perplexity``."""
    scorer = load_scorer(config, len(rows))
    scores: list[float] = []
    reasons = dict.fromkeys((f"{config.score} too low", f"{config.score} too high"), 0)
    for index, conversation, found in _scored_rows(rows, scorer, config):
        score = found[config.score]
        reason, detail = _bounds(score, config)
        if reason is not None:
            reasons[reason] += 1
        scores.append(score)
        scored = replace(conversation, scores={**conversation.scores, **found})
        yield Finding(index, reason, detail, score, scored if reason is None else None)
    return {
        "model": config.model,
        "score": config.score,
        "max_length": scorer.max_length,
        "scored": len(scores),
        "not_scored": len(rows) - len(scores),
        "reasons": reasons,
        "quartiles": [float(value) for value in np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])] if scores else [],
    }


def _scored_rows(
    rows: RowView, scorer: Scorer, config: PerplexityConfig
) -> Iterator[tuple[int, Conversation, dict[str, float]]]:
    """Number, conversation and scores of each row that has some, ``WINDOW`` rows at a time."""
    held_out = rows.held_out
    for start, batch in rows.map(same_conversations, config):
        wanted = [(index, row) for index, row in enumerate(batch, start) if not held_out[index]]
        for first in range(0, len(wanted), WINDOW):
            window = wanted[first : first + WINDOW]
            scores = scorer.scores([conversation for _, conversation in window])
            for (index, conversation), found in zip(window, scores, strict=True):
                if found is not None:
                    yield index, conversation, found


def same_conversations(conversations: Sequence[Conversation], config: PerplexityConfig) -> Sequence[Conversation]:
    """The conversations: the model runs in one process."""
    return conversations


def _bounds(score: float, config: PerplexityConfig) -> tuple[str | None, str]:
    """Why a score leaves its row out, if it does, and the sentence about it."""
    shown = f"{config.score} {score:.3f}"
    if config.min_score is not None and score < config.min_score:
        return f"{config.score} too low", f"{shown}, below {config.min_score:g}"
    if config.max_score is not None and score > config.max_score:
        return f"{config.score} too high", f"{shown}, above {config.max_score:g}"
    return None, shown
