"""Training rows that hold the prompts of evaluation sets: what was seen in training proves nothing in an evaluation."""

import functools
import heapq
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sft_cli.clean.base import Finding, Findings, RowView, normalized_words
from sft_cli.clean.eval_sets import EvalPrompt, eval_prompts
from sft_cli.clean.ngrams import PromptIndex, PromptMatch, build_index, overlapping_prompts
from sft_cli.config.schema.clean import Action, ContaminationConfig
from sft_cli.types import Conversation

REASON = "holds an evaluation prompt"
MAX_PAIRS = 50
"""Pairs in the report, the worst."""
MAX_CHARACTERS = 600
"""Characters shown of each side of a pair."""


def check_contamination(config: ContaminationConfig) -> None:
    """Return if every evaluation set can be read and its prompts be found.

    Raises:
        SftError: What is wrong with one.
    """
    eval_prompts(config)


def find_contamination(rows: RowView, config: ContaminationConfig) -> Findings:
    """The rows, except held-out ones, that hold ``config.threshold`` or more of the n-grams of an evaluation prompt.

    A row's texts are its messages (or its document) and their reasoning, each by itself; how prompts shorter than an
    n-gram are compared is said in ngrams.py. The finding names the prompt with the largest share.

    Returns for each set the number of its prompts, of those found and of the rows that hold them; how many rows hold
    token ids and could not be searched; and the worst pairs, ``text`` beginning a little before what is shared.
    """
    _prompt_index.cache_clear()  # the files may have changed since
    known = eval_prompts(config)
    tally = _Tally(config, known)
    held_out = rows.held_out
    for start, batch in rows.map(_prompt_matches, config):
        for row, matches in enumerate(batch, start):
            if held_out[row]:
                continue
            tally.add(row, matches)
            if matches:
                prompt, share = max(matches, key=lambda match: match[1])
                detail = f"{share:.0%} of {known[prompt].name}, {known[prompt].where}"
                yield Finding(row, REASON if config.action is Action.drop else None, detail, round(share, 4))
    return tally.report(rows)


def _prompt_matches(
    conversations: Sequence[Conversation], config: ContaminationConfig
) -> list[tuple[PromptMatch, ...] | None]:
    """For each conversation the prompts it holds; None for one of token ids."""
    index = _prompt_index(tuple(config.against.items()), tuple(config.columns.items()), config.ngram)
    found = overlapping_prompts(index, [list(_texts(conversation)) for conversation in conversations], config.threshold)
    return [
        None if conversation.tokens is not None else matches
        for conversation, matches in zip(conversations, found, strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _prompt_index(
    against: tuple[tuple[str, str], ...], columns: tuple[tuple[str, str], ...], ngram: int
) -> PromptIndex:
    """Built once in each process."""
    config = ContaminationConfig(against=dict(against), columns=dict(columns), ngram=ngram)
    return build_index([prompt.text for prompt in eval_prompts(config)], ngram)


def _texts(conversation: Conversation) -> Iterator[str]:
    if conversation.text is not None:
        yield conversation.text
    for message in conversation.messages:
        yield message.content
        if isinstance(message.extra.get("reasoning_content"), str):
            yield message.extra["reasoning_content"]


class _Tally:
    """What the report counts."""

    def __init__(self, config: ContaminationConfig, known: Sequence[EvalPrompt]) -> None:
        self._config, self._known = config, known
        self._found: set[int] = set()
        self._rows = dict.fromkeys(config.against, 0)
        self._unsearched = 0
        self._worst: list[tuple[float, int, int]] = []

    def add(self, row: int, matches: Sequence[PromptMatch] | None) -> None:
        """Note what a row holds."""
        if matches is None:
            self._unsearched += 1
            return
        self._found.update(prompt for prompt, _ in matches)
        for name in {self._known[prompt].name for prompt, _ in matches}:
            self._rows[name] += 1
        for prompt, share in matches:
            heapq.heappush(self._worst, (share, -row, -prompt))
            if len(self._worst) > MAX_PAIRS:
                heapq.heappop(self._worst)

    def report(self, rows: RowView) -> dict[str, Any]:
        """Plain values, bounded in size but for the names of the sets."""
        names = [prompt.name for prompt in self._known]
        found = [names[prompt] for prompt in self._found]
        sets = {
            name: {"prompts": names.count(name), "contaminated_prompts": found.count(name), "rows": count}
            for name, count in self._rows.items()
        }
        worst = sorted(self._worst, reverse=True)
        pairs = [self._pair(rows[-row], self._known[-prompt], share) for share, row, prompt in worst]
        return {"sets": sets, "pairs": pairs, "unsearched_rows": self._unsearched}

    def _pair(self, conversation: Conversation, prompt: EvalPrompt, share: float) -> dict[str, Any]:
        return {
            "set": prompt.name,
            "eval_where": prompt.where,
            "eval_text": prompt.text[:MAX_CHARACTERS],
            "where": conversation.where,
            "text": _excerpt(conversation, normalized_words(prompt.text), self._config.ngram),
            "score": round(share, 4),
        }


def _excerpt(conversation: Conversation, prompt: Sequence[str], ngram: int) -> str:
    """The part of a row that begins a little before the first run of words it shares with a prompt."""
    length = min(ngram, len(prompt))
    for text in _texts(conversation):
        for start in range(len(prompt) - length + 1):
            run = r"[\W_]+".join(re.escape(word) for word in prompt[start : start + length])
            found = re.search(rf"(?<![^\W_]){run}(?![^\W_])", text, re.IGNORECASE)
            if found is not None:
                begin = max(0, found.start() - MAX_CHARACTERS // 4)
                return text[begin : begin + MAX_CHARACTERS]
    return "\n".join(_texts(conversation))[:MAX_CHARACTERS]
