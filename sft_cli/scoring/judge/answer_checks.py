"""Find answers that are made for a judge: one text for all items, and markup of judges' prompts."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from sft_cli.scoring.types import Item

_MARKERS = re.compile(
    r"""
      ^\#{1,3}[ ]*(?:model[ ]outputs|best[ ]model[ ]identifier)\b  # AlpacaEval
    | ["']?model_identifier["']?\s*[:=]
    | \[\[(?:[ABC]|rating|\d+)\]\]                                 # MT-Bench, Arena
    | \[(?:the[ ])?(?:start|end)[ ]of[ ](?:assistant|reference|the[ ]answer)
    | <\|(?:the[ ])?(?:start|end)[ ]of[ ](?:assistant|reference)
    | \{\s*"(?:explanation|reasoning)"\s*:.{0,400}?"(?:winner|rating|verdict)"\s*:  # this package
    | "answer[ ][AB]"\s*:
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE | re.DOTALL,
)


class AnswerChecks(TypedDict):
    """Shares of suspicious answers, as fields of an audit."""

    repeated_answers: float | None
    judge_markers: float | None


def check_answers(items: Sequence[Item], texts: Sequence[str]) -> AnswerChecks:
    """Return the share of unlike questions that one text answers, and of answers with markup of a judge's prompt.

    Questions with the same text count once. With fewer than five different questions, no answer counts as repeated.
    """
    answered: dict[str, str] = {}
    for item, text in zip(items, texts, strict=True):
        answered.setdefault(repr([turn.get("content") for turn in item.messages]), " ".join(text.split()))
    most = Counter(answered.values()).most_common(1)
    repeated = most[0][1] / len(answered) if most and most[0][1] > 1 and len(answered) >= 5 else 0.0
    marked = sum(has_judge_markers(text) for text in texts)
    return AnswerChecks(
        repeated_answers=repeated if texts else None, judge_markers=marked / len(texts) if texts else None
    )


def has_judge_markers(text: str) -> bool:
    """Return whether a text contains markup of a judge's prompt or verdict."""
    return _MARKERS.search(text) is not None
