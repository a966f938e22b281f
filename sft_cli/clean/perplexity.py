"""Score rows by a model: the perplexity of the last answer, and how much the prompt helps to predict it.

``perplexity`` is e to the mean loss of the answer's tokens after the prompt; ``ifd``, instruction-following difficulty
(Li et al. 2023, arXiv:2308.12032), is its ratio to the perplexity of the same tokens without the prompt. Held-out rows
and rows without an answer are not scored, and kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from sft_cli.clean.base import Finding, Findings, RowView
from sft_cli.clean.scorer import IFD, KEY, PERPLEXITY, PerplexityScorer, load_scorer
from sft_cli.config.schema.clean import PerplexityConfig
from sft_cli.errors import SftError, raise_all
from sft_cli.types import Conversation

WINDOW = 128
"""Rows between two updates of the progress."""


def check_perplexity(config: PerplexityConfig) -> None:
    """Refuse invalid settings; the model itself is checked when the filter starts."""
    errors = []
    if config.model is None:
        fix = f"{KEY}.model=DIR_OR_HUB_ID, or model.path=DIR_OR_HUB_ID"
        errors.append(SftError(where=f"{KEY}.model", problem="no model for scoring is set", fix=fix))
    if config.score not in (IFD, PERPLEXITY):
        problem = f"unknown score {config.score!r}"
        errors.append(
            SftError(where=f"{KEY}.score", problem=problem, fix=f"{KEY}.score={IFD}, or {KEY}.score={PERPLEXITY}")
        )
    if config.min_score is not None and config.max_score is not None and config.min_score > config.max_score:
        problem = (
            f"min_score is {config.min_score:g}, but max_score is {config.max_score:g}: every row would be dropped"
        )
        fix = f"{KEY}.max_score={config.min_score:g}, or remove {KEY}.min_score"
        errors.append(SftError(where=f"{KEY}.min_score", problem=problem, fix=fix))
    if config.max_length > config.tokens_per_batch:
        problem = f"max_length is {config.max_length}, more than the {config.tokens_per_batch} tokens of a batch"
        fix = f"{KEY}.tokens_per_batch={config.max_length}, or {KEY}.max_length={config.tokens_per_batch}"
        errors.append(SftError(where=f"{KEY}.max_length", problem=problem, fix=fix))
    raise_all(errors)


def find_perplexity(rows: RowView, config: PerplexityConfig) -> Findings:
    """Return a finding for each scored row, with its scores in the conversation, and the report.

    The report has ``model``, ``score``, the effective ``max_length``, ``scored`` and ``not_scored`` rows, ``reasons``
    (reason -> rows) and ``quartiles`` of the scores.
    """
    check_perplexity(config)
    return _find(rows, config)


def _find(rows: RowView, config: PerplexityConfig) -> Findings:
    """Yield the findings of ``find_perplexity``."""
    scorer = load_scorer(config, len(rows))
    scores: list[float] = []
    reasons = dict.fromkeys((f"{config.score} too low", f"{config.score} too high"), 0)
    for index, conversation, row_scores in _scored_rows(rows, scorer, config):
        score = row_scores[config.score]
        reason, detail = _bounds(score, config)
        if reason is not None:
            reasons[reason] += 1
        scores.append(score)
        scored = replace(conversation, scores={**conversation.scores, **row_scores})
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
    rows: RowView, scorer: PerplexityScorer, config: PerplexityConfig
) -> Iterator[tuple[int, Conversation, dict[str, float]]]:
    """Yield number, conversation and scores of each scored row, ``WINDOW`` rows at a time."""
    held_out = rows.held_out
    for start, batch in rows.map(same_conversations, config):
        to_score = [(index, row) for index, row in enumerate(batch, start) if not held_out[index]]
        for first in range(0, len(to_score), WINDOW):
            window = to_score[first : first + WINDOW]
            scores = scorer.scores([conversation for _, conversation in window])
            for (index, conversation), row_scores in zip(window, scores, strict=True):
                if row_scores is not None:
                    yield index, conversation, row_scores


def same_conversations(conversations: Sequence[Conversation], config: PerplexityConfig) -> Sequence[Conversation]:
    """Return the conversations unchanged, because the model runs in one process."""
    return conversations


def _bounds(score: float, config: PerplexityConfig) -> tuple[str | None, str]:
    """Return the reason to drop a row by its score, or None, and the sentence about the row."""
    shown = f"{config.score} {score:.3f}"
    if config.min_score is not None and score < config.min_score:
        return f"{config.score} too low", f"{shown}, below {config.min_score:g}"
    if config.max_score is not None and score > config.max_score:
        return f"{config.score} too high", f"{shown}, above {config.max_score:g}"
    return None, shown
