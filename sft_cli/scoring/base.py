"""The base of scorers, and errors of their options and items."""

from collections.abc import Iterable, Mapping, Sequence

from sft_cli.errors import SftError
from sft_cli.scoring.types import Item, Verdict
from sft_cli.utils.optional_deps import missing_libraries


class OptionError(Exception):
    """An option of a scorer that is refused; ``make_scorer`` adds where it was set.

    Attributes:
        option: Name of the option; empty for the scorer as a whole.
        problem: Description of the problem.
        fix: What to change.
    """

    def __init__(self, option: str, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.option, self.problem, self.fix = option, problem, fix


class AnyItems:
    """A scorer that checks an item only when it scores an answer to it."""

    def check_items(self, items: Iterable[Item]) -> None:
        """Accept all items."""


class MeanScorer(AnyItems):
    """A scorer whose scores over many items are all means of the items' scores."""

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return no further scores."""
        return {}


def require_packages(scorer: str, *modules: str) -> None:
    """Refuse a scorer if one of its libraries is not installed."""
    if found := missing_libraries(scorer, modules, "eval"):
        raise OptionError("", *found)


def item_error(item: Item, problem: str, fix: str) -> SftError:
    """Return an error about an item."""
    return SftError(where=f"item {item.id}", problem=problem, fix=fix)


def require_target(item: Item, scorer: str) -> tuple[str, ...]:
    """Return the expected answers of an item; refuse an item without."""
    if not item.target:
        raise item_error(item, f"the item has no expected answer, which {scorer} needs", "add one to the item's row")
    return item.target
