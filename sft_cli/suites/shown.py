"""Questions and answers as text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft_cli.suites.items import LoadedSuite
from sft_cli.utils.text import excerpt

MAX_ITEMS, MAX_CHARACTERS = 10, 400
"""Most items, and most characters of a text, that are shown."""


def answer_lines(suite: LoadedSuite, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield lines that show the questions of a suite with the answers of each model.

    Args:
        suite: The suite with its items.
        answers: By the name of a model, of at most nine letters, its lines of ``answers.jsonl``.
    """
    for entry in suite.items[:MAX_ITEMS]:
        yield entry.where
        yield f"  prompt    {excerpt(str(entry.item.messages[-1]['content']), MAX_CHARACTERS)}"
        for name, records in answers.items():
            for record in records:
                if record["id"] == entry.item.id:
                    yield f"  {name:<9} {excerpt(record['answer'], MAX_CHARACTERS)}"
    if len(suite.items) > MAX_ITEMS:
        yield f"  and {len(suite.items) - MAX_ITEMS:,} more"
