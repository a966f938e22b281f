"""The scorers of a suite."""

from collections.abc import Iterable, Mapping, Sequence

from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.scoring.registry import make_scorer
from sft_cli.scoring.types import Answer, Item, Scorer, Verdict

UNSCORED = "none"
"""Name of the scorer of answers that are only shown."""


def suite_scorer(name: str, suite: SuiteConfig) -> Scorer:
    """Return the scorer of a suite; of several, their scores together.

    Raises:
        SftError: There is no such scorer, or it does not have an option.
    """
    where = f"eval.suites.{name}.scorers"
    scorers = [make_scorer(one, suite.options, where) for one in suite.scorers if one != UNSCORED]
    return scorers[0] if len(scorers) == 1 else CombinedScorers(scorers)


class CombinedScorers:
    """The scores of several scorers together; none of them means no scores."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = tuple(scorers)

    def check_items(self, items: Iterable[Item]) -> None:
        """Let every scorer check the items."""
        checked = list(items)
        for scorer in self._scorers:
            scorer.check_items(checked)

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the scores of all scorers, and the first label, extract and reason that one of them gives."""
        verdicts = [scorer.score(item, answer) for scorer in self._scorers]
        return Verdict(
            {name: value for verdict in verdicts for name, value in verdict.scores.items()},
            next((verdict.reason for verdict in verdicts if verdict.reason), ""),
            next((verdict.extracted for verdict in verdicts if verdict.extracted is not None), None),
            next((verdict.label for verdict in verdicts if verdict.label), ""),
        )

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return the scores over all items of all scorers."""
        found = [scorer.summarize(items, verdicts) for scorer in self._scorers]
        return {name: value for scores in found for name, value in scores.items()}
