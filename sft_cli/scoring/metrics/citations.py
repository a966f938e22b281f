"""Score citation marks such as [1] or [2, 3] against the sources that were given and those that support the answer."""

import re
from dataclasses import dataclass

from sft_cli.scoring.base import MeanScorer, item_error
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.types import Answer, Item, Verdict

MARK = re.compile(r"\[(\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*)\](?!\()")  # not a link: [1](…)
DEFINITION = re.compile(r"^\s*\[\d{1,3}\]:?\s.*$", re.MULTILINE)
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
MOST = 1000
"""Citations of a range that are counted."""


def cited_numbers(text: str) -> set[int]:
    """Return the numbers of the sources that a text cites; lists of references and code are left out."""
    plain = DEFINITION.sub(" ", CODE.sub(" ", text))
    numbers: set[int] = set()
    for marks in MARK.findall(plain):
        for part in re.split(r"\s*[,;]\s*", marks):
            first, *last = map(int, re.split(r"\s*[–-]\s*", part))
            numbers.update(range(first, min((last or [first])[-1], first + MOST) + 1))
    return numbers


@dataclass(frozen=True, slots=True)
class Citations(MeanScorer):
    """``citation_precision``, ``citation_recall``, ``citations_exist``.

    Precision is the share of the cited sources that support the answer, recall the share of supporting sources that are
    cited; ``citations_exist`` the share of the cited sources that were given. An answer without citations has recall
    only, 0, unless no source supports the answer.

    Attributes:
        sources: Column of the items with the list of sources, or with their number. The first is [1].
        supporting: Column with the numbers of the sources that support the answer; without it only existence is scored.
    """

    sources: str = "sources"
    supporting: str = "supporting"

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the shares."""
        given = item.fields.get(self.sources)
        count = len(given) if isinstance(given, list | tuple) else given
        if not isinstance(count, int) or isinstance(count, bool):
            raise item_error(
                item,
                f"the column {self.sources} has no list of sources",
                "add it, or eval.suites.NAME.options.sources=COLUMN",
            )
        cited = cited_numbers(answer.text.rpartition(REASONING_END)[2])
        scores, reasons = {}, []
        if cited:
            real = cited & set(range(1, count + 1))
            scores["citations_exist"] = len(real) / len(cited)
            reasons += [f"[{number}] does not exist" for number in sorted(cited - real)[:3]]
        if item.fields.get(self.supporting) is not None:
            supporting = self._supporting(item, count)
            if cited:
                scores["citation_precision"] = len(cited & supporting) / len(cited)
            if supporting:
                scores["citation_recall"] = len(cited & supporting) / len(supporting)
            reasons += [f"[{number}] is not cited" for number in sorted(supporting - cited)[:3]]
        return Verdict(scores, "; ".join(reasons), ", ".join(map(str, sorted(cited)[:20])))

    def _supporting(self, item: Item, count: int) -> set[int]:
        """Return the numbers of the sources that support an item's answer."""
        numbers = item.fields[self.supporting]
        if not isinstance(numbers, list | tuple) or not all(
            isinstance(number, int) and 1 <= number <= count for number in numbers
        ):
            raise item_error(
                item, f"{self.supporting} is {numbers!r}; expected numbers from 1 to {count}", "correct it"
            )
        return set(numbers)
