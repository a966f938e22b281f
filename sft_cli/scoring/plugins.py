"""Load the metrics of installed packages: entry points of the group ``sft_cli.metrics``.

An entry point names a function of an item and an answer (see types.py), and of options by keyword. It returns a number
or a truth value, a mapping of scores by name, or a ``Verdict``.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from numbers import Real
from typing import Any

from sft_cli.errors import SftError
from sft_cli.scoring.base import MeanScorer, OptionError, item_error
from sft_cli.scoring.types import Answer, Item, Verdict
from sft_cli.utils.entry_points import describe_exception, load_function
from sft_cli.utils.similar import closest_name

GROUP = "sft_cli.metrics"


@dataclass(frozen=True)
class InstalledMetric(MeanScorer):
    """A metric of an installed package.

    Attributes:
        name: Name of the entry point; the name of the score if the function returns a number.
        function: The function.
        options: Options that it is called with.
    """

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any]

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the verdict that the function gives."""
        try:
            value = self.function(item, answer, **self.options)
        except Exception as error:  # a third-party function may raise anything
            problem = f"the metric {self.name} raised {describe_exception(error)}"
            raise item_error(item, problem, "correct the item or the metric") from error
        verdict = value if isinstance(value, Verdict) else Verdict({self.name: value})
        if isinstance(value, Mapping):
            verdict = Verdict(value)
        for score, number in verdict.scores.items():
            if not isinstance(number, Real) or not math.isfinite(number):
                problem = f"the metric {self.name} returned {number!r} as {score}; expected a finite number"
                raise item_error(item, problem, "change the function to return numbers, leaving out missing ones")
        return replace(verdict, scores={str(score): float(number) for score, number in verdict.scores.items()})


def load_metric(point: EntryPoint, options: Mapping[str, Any], where: str) -> InstalledMetric:
    """Return the metric of an entry point, its options checked against the function's parameters."""
    function = load_function(point, "metric", "an item and an answer", where)
    parameters = list(inspect.signature(function).parameters.values())
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        try:
            refuse_unknown_options(point.name, options, [parameter.name for parameter in parameters[2:]])
        except OptionError as error:
            raise SftError(where=f"{where}.{error.option}", problem=error.problem, fix=error.fix) from error
    return InstalledMetric(point.name, function, dict(options))


def refuse_unknown_options(name: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``OptionError`` for the first option that a metric does not have."""
    names = list(known)
    for option in options:
        if option not in names:
            near = closest_name(option, names)
            has = f"its options are {', '.join(names)}" if names else "it has no options"
            fix = f"did you mean {near}?" if near else f"remove {option}"
            raise OptionError(option, f"{name} has no option {option}; {has}", fix)
