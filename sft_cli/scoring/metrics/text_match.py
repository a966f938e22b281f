"""Compare the text of an answer: exactly, by a regular expression, or by what it contains."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sft_cli.scoring.base import MeanScorer, OptionError, item_error, require_target
from sft_cli.scoring.bounded import call_bounded
from sft_cli.scoring.normalize import REASONING_END, normalize_answer
from sft_cli.scoring.types import Answer, Item, Verdict


@dataclass(frozen=True, slots=True)
class ExactMatch(MeanScorer):
    """``exact_match``: the answer equals an expected one, both normalized (see normalize.py)."""

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the answer equals one of the targets."""
        found = normalize_answer(answer.text)
        correct = any(found == normalize_answer(target) for target in require_target(item, "exact_match"))
        return Verdict({"exact_match": float(correct)}, "" if correct else "not the expected answer", found)


@dataclass(frozen=True, slots=True)
class RegexMatch(MeanScorer):
    """``regex``: a regular expression matches the answer.

    Attributes:
        pattern: The pattern; empty: each item's targets are patterns, one of which must match. If the item has targets
            and the pattern a group, the group must equal a target, both normalized.
        ignore_case: Whether case is ignored.
        whole: Whether the pattern must match the whole answer.
        seconds: Limit of time for one answer.
    """

    pattern: str = ""
    ignore_case: bool = False
    whole: bool = False
    seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise OptionError("seconds", f"{self.seconds} is not above 0", "seconds: 2")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise OptionError(
                "pattern", f"{self.pattern!r} is not a regular expression: {error}", "correct it"
            ) from error

    def check_items(self, items: Iterable[Item]) -> None:
        """Refuse an item whose patterns cannot be compiled, before the model answers."""
        for item in items:
            for pattern in () if self.pattern else item.target:
                _groups(item, pattern)

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the pattern matches; an answer on which it takes too long scores 0."""
        patterns = [self.pattern] if self.pattern else require_target(item, "regex without a pattern")
        for pattern in patterns:
            groups = _groups(item, pattern)
            try:
                flags = re.IGNORECASE if self.ignore_case else 0
                found = call_bounded("search", pattern, answer.text, flags, self.whole, seconds=self.seconds)
            except TimeoutError:
                return Verdict({"regex": 0.0}, f"the pattern took more than {self.seconds:g} s")
            if found is not None and self._agrees(found, item, groups):
                return Verdict({"regex": 1.0}, extracted=found)
            if found is not None:
                return Verdict({"regex": 0.0}, "not the expected answer", found)
        return Verdict({"regex": 0.0}, "the pattern does not match")

    def _agrees(self, found: str, item: Item, groups: int) -> bool:
        """Return whether the text of a group is expected; without a group or targets a match is enough."""
        if not self.pattern or not groups or not item.target:
            return True
        return normalize_answer(found) in map(normalize_answer, item.target)


def _groups(item: Item, pattern: str) -> int:
    """Return the number of groups of an item's pattern.

    Raises:
        SftError: It is not a regular expression.
    """
    try:
        return re.compile(pattern).groups
    except re.error as error:
        raise item_error(item, f"{pattern!r} is not a regular expression: {error}", "correct it") from error


@dataclass(frozen=True, slots=True)
class ContainsText(MeanScorer):
    """``contains``: the answer contains an expected text as whole words: INCORRECT does not contain CORRECT.

    Attributes:
        all: Whether it must contain all expected texts, not one.
        ignore_case: Whether case is ignored.
        words: Whether a text must begin and end where a word does.
    """

    all: bool = False
    ignore_case: bool = True
    words: bool = True

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the answer, without reasoning, contains the text."""
        text = answer.text.rpartition(REASONING_END)[2]
        targets = require_target(item, "contains")
        missing = [target for target in targets if not self._contains(text, target)]
        correct = not missing if self.all else len(missing) < len(targets)
        return Verdict({"contains": float(correct)}, "" if correct else f"it does not contain {missing[0]!r}")

    def _contains(self, text: str, target: str) -> bool:
        """Return whether a text contains a target; runs of white space are equal."""
        parts = target.split()
        pattern = r"\s+".join(map(re.escape, parts))
        if self.words and parts:
            pattern = rf"{_edge(parts[0][0], '(?<!')}{pattern}{_edge(parts[-1][-1], '(?!')}"
        return re.search(pattern, text, re.IGNORECASE if self.ignore_case else 0) is not None


def _edge(character: str, look: str) -> str:
    r"""Return a pattern for the edge of a word: no ``\w`` may follow, or precede, a character that is one itself."""
    return rf"{look}\w)" if re.match(r"\w", character) else ""
