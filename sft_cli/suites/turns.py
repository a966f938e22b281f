"""The second turn of an item: a question after the model's own answer to the first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sft_cli.suites.items import SuiteItem
from sft_cli.suites.results import Place


def with_own_answers(
    pending: Sequence[tuple[SuiteItem, int]], answers: Mapping[Place, str]
) -> list[tuple[SuiteItem, int]]:
    """Return items and samples with the answers to the first turns; a second turn without one is left out.

    Args:
        pending: Items, each with the number of the sample.
        answers: The answer to each item and sample.
    """
    known = [(entry, sample) for entry, sample in pending if not entry.after or (entry.after, sample) in answers]
    return [
        (with_own_answer(entry, answers[entry.after, sample]) if entry.after else entry, sample)
        for entry, sample in known
    ]


def with_own_answer(entry: SuiteItem, answer: str) -> SuiteItem:
    """Return a second turn with the answer to the first in its conversation."""
    *first, _, question = entry.item.messages
    reply: Mapping[str, Any] = {"role": "assistant", "content": answer}
    return replace(entry, item=replace(entry.item, messages=(*first, reply, question)))
