"""Find training rows that contain prompts of evaluation sets, which would make an evaluation meaningless."""

import functools
import heapq
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sft_cli.clean.base import Finding, Findings, RowView
from sft_cli.clean.eval_sets import EvalPrompt, eval_prompts
from sft_cli.clean.ngrams import PromptIndex, PromptMatch, build_index, overlapping_prompts
from sft_cli.config.schema.clean import Action, ContaminationConfig
from sft_cli.types import Conversation
from sft_cli.utils.words import normalized_words

REASON = "holds an evaluation prompt"
MAX_PAIRS = 50
"""Pairs in the report, the most similar."""
MAX_CHARACTERS = 600
"""Characters shown of each side of a pair."""


def check_contamination(config: ContaminationConfig) -> None:
    """Check that every evaluation set can be read and has prompts.

    Raises:
        SftError: An evaluation set cannot be read.
    """
    eval_prompts(config)


def find_contamination(rows: RowView, config: ContaminationConfig) -> Findings:
    """Yield the training rows that contain ``config.threshold`` or more of the n-grams of an evaluation prompt.

    Each message (or document) and each reasoning text of a row is compared separately; ngrams.py describes the
    comparison of prompts shorter than an n-gram. The finding names the prompt with the largest share.

    Returns:
        For each set the number of its prompts, of contaminated prompts, and of rows that contain them; the number of
        rows of token ids, which cannot be searched; and the most similar pairs, ``text`` starting shortly before the
        match.
    """
    _prompt_index.cache_clear()  # the files may have changed
    prompts = eval_prompts(config)
    tally = _Tally(config, prompts)
    held_out = rows.held_out
    for start, batch in rows.map(_prompt_matches, config):
        for row, matches in enumerate(batch, start):
            if held_out[row]:
                continue
            tally.add(row, matches)
            if matches:
                prompt, share = max(matches, key=lambda match: match[1])
                detail = f"{share:.0%} of {prompts[prompt].name}, {prompts[prompt].where}"
                yield Finding(row, REASON if config.action is Action.drop else None, detail, round(share, 4))
    return tally.report(rows)


def _prompt_matches(
    conversations: Sequence[Conversation], config: ContaminationConfig
) -> list[tuple[PromptMatch, ...] | None]:
    """Return the prompts that each conversation contains; None for one of token ids."""
    index = _prompt_index(tuple(config.against.items()), tuple(config.columns.items()), config.ngram)
    matches_of_rows = overlapping_prompts(
        index, [list(_texts(conversation)) for conversation in conversations], config.threshold
    )
    return [
        None if conversation.tokens is not None else matches
        for conversation, matches in zip(conversations, matches_of_rows, strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _prompt_index(
    against: tuple[tuple[str, str], ...], columns: tuple[tuple[str, str], ...], ngram: int
) -> PromptIndex:
    """Return the index of the prompts, built once per process."""
    config = ContaminationConfig(against=dict(against), columns=dict(columns), ngram=ngram)
    return build_index([prompt.text for prompt in eval_prompts(config)], ngram)


def _texts(conversation: Conversation) -> Iterator[str]:
    """Yield the texts of a conversation that are compared."""
    if conversation.text is not None:
        yield conversation.text
    for message in conversation.messages:
        yield message.content
        if isinstance(message.extra.get("reasoning_content"), str):
            yield message.extra["reasoning_content"]


class _Tally:
    """The counts of the report."""

    def __init__(self, config: ContaminationConfig, known: Sequence[EvalPrompt]) -> None:
        self._config, self._prompts = config, known
        self._matched: set[int] = set()
        self._rows = dict.fromkeys(config.against, 0)
        self._unsearched = 0
        self._worst: list[tuple[float, int, int]] = []

    def add(self, row: int, matches: Sequence[PromptMatch] | None) -> None:
        """Count the matches of a row."""
        if matches is None:
            self._unsearched += 1
            return
        self._matched.update(prompt for prompt, _ in matches)
        for name in {self._prompts[prompt].name for prompt, _ in matches}:
            self._rows[name] += 1
        for prompt, share in matches:
            heapq.heappush(self._worst, (share, -row, -prompt))
            if len(self._worst) > MAX_PAIRS:
                heapq.heappop(self._worst)

    def report(self, rows: RowView) -> dict[str, Any]:
        """Return the report as JSON values; only the names of the sets are unbounded in size."""
        names = [prompt.name for prompt in self._prompts]
        matched_names = [names[prompt] for prompt in self._matched]
        sets = {
            name: {"prompts": names.count(name), "contaminated_prompts": matched_names.count(name), "rows": count}
            for name, count in self._rows.items()
        }
        worst = sorted(self._worst, reverse=True)
        pairs = [self._pair(rows[-row], self._prompts[-prompt], share) for share, row, prompt in worst]
        return {"sets": sets, "pairs": pairs, "unsearched_rows": self._unsearched}

    def _pair(self, conversation: Conversation, prompt: EvalPrompt, share: float) -> dict[str, Any]:
        """Return one pair of a training row and an evaluation prompt."""
        return {
            "set": prompt.name,
            "eval_where": prompt.where,
            "eval_text": prompt.text[:MAX_CHARACTERS],
            "where": conversation.where,
            "text": _excerpt(conversation, normalized_words(prompt.text), self._config.ngram),
            "score": round(share, 4),
        }


def _excerpt(conversation: Conversation, prompt: Sequence[str], ngram: int) -> str:
    """Return the part of a row that starts shortly before the first run of words it shares with a prompt."""
    length = min(ngram, len(prompt))
    for text in _texts(conversation):
        for start in range(len(prompt) - length + 1):
            run = r"[\W_]+".join(re.escape(word) for word in prompt[start : start + length])
            match = re.search(rf"(?<![^\W_]){run}(?![^\W_])", text, re.IGNORECASE)
            if match is not None:
                begin = max(0, match.start() - MAX_CHARACTERS // 4)
                return text[begin : begin + MAX_CHARACTERS]
    return "\n".join(_texts(conversation))[:MAX_CHARACTERS]
