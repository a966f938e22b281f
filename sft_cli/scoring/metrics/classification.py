"""Score answers that are labels: accuracy, macro-F1, and a table of expected against predicted labels."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft_cli.scoring.base import AnyItems, OptionError, item_error, require_target
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.types import Answer, Item, Verdict
from sft_cli.utils.text import any_of

AMBIGUOUS, NO_LABEL = "(ambiguous)", "(none)"
"""What is predicted by an answer that names several labels, or none."""


@dataclass(frozen=True, slots=True)
class Classification(AnyItems):
    """``accuracy`` and ``ambiguous`` per item, ``macro_f1`` over all items.

    The label of an answer is the one that it begins with, or else the only one that it contains as a word. An answer
    that names several is ambiguous and wrong.

    Attributes:
        labels: The labels; case is ignored.
        whole: Whether the answer must be the label and nothing else.
    """

    labels: tuple[str, ...]
    whole: bool = False

    def __post_init__(self) -> None:
        folded = [label.casefold().strip() for label in self.labels]
        if len(set(folded)) < 2 or len(set(folded)) < len(folded) or "" in folded:
            raise OptionError(
                "labels", f"{list(self.labels)} are not two or more different labels", "list each label once"
            )

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return whether the label is right."""
        expected = self._known(item)
        found = self.find_label(answer.text)
        reason = "" if found == expected else f"expected {expected}, found {found}"
        scores = {"accuracy": float(found == expected), "ambiguous": float(found == AMBIGUOUS)}
        return Verdict(scores, reason, found, found)

    def find_label(self, text: str) -> str:
        """Return the label of an answer, ``AMBIGUOUS`` or ``NO_LABEL``."""
        plain = text.rpartition(REASONING_END)[2].strip().strip("*_`\"'“”‘’ \t\n").casefold()
        names = {label.casefold().strip(): label for label in self.labels}
        if self.whole:
            return names.get(plain.rstrip("."), NO_LABEL)
        pattern = re.compile(rf"(?<!\w)(?:{any_of(names)})(?!\w)")
        found = [match[0] for match in pattern.finditer(plain)]
        if not found:
            return NO_LABEL
        first_line = plain.partition("\n")[0]
        begins = pattern.match(plain) is not None
        named = set(pattern.findall(first_line)) if begins else set(found)
        return names[found[0]] if len(named) == 1 else AMBIGUOUS

    def _known(self, item: Item) -> str:
        """Return the expected label of an item, in the spelling of ``labels``."""
        target = require_target(item, "classification")[0]
        for label in self.labels:
            if label.casefold().strip() == target.casefold().strip():
                return label
        raise item_error(
            item, f"{target!r} is not one of the labels {', '.join(self.labels)}", "correct the item or labels"
        )

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return the mean of the labels' F1; labels that are neither expected nor predicted are left out."""
        table = confusion_table([self._known(item) for item in items], verdicts)
        return {"macro_f1": macro_f1(table)} if items else {}


def confusion_table(expected: Sequence[str], verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """Return expected label -> predicted label -> items; the predicted labels are those of the verdicts."""
    counts = Counter(zip(expected, (verdict.label for verdict in verdicts), strict=True))
    table: dict[str, dict[str, int]] = {label: {} for label in dict.fromkeys(expected)}
    for (label, predicted), number in counts.items():
        table[label][predicted] = number
    return table


def macro_f1(table: Mapping[str, Mapping[str, int]]) -> float:
    """Return the mean over labels of F1, ``2 tp / (expected + predicted)``; 0 for an empty table."""
    predicted = Counter[str]()
    for row in table.values():
        predicted.update(row)
    labels = [*table, *(label for label in predicted if label not in table and label not in (AMBIGUOUS, NO_LABEL))]
    scores = [
        2 * table.get(label, {}).get(label, 0) / (sum(table.get(label, {}).values()) + predicted[label])
        for label in labels
    ]
    return sum(scores) / len(scores) if scores else 0.0
