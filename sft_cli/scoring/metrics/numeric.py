"""Compare numbers, formulas, sets and intervals by value with math-verify."""

from dataclasses import dataclass

from sft_cli.scoring.base import MeanScorer, OptionError, require_packages, require_target
from sft_cli.scoring.bounded import call_bounded
from sft_cli.scoring.metrics.gsm8k import parse_number
from sft_cli.scoring.types import Answer, Item, Verdict

LONGEST = 8000
"""Characters at the end of an answer that are read."""


@dataclass(frozen=True, slots=True)
class NumericMatch(MeanScorer):
    r"""``numeric``: the answer's final expression (``\boxed{}``, ``$…$`` or a number) equals an expected one in value.

    Attributes:
        decimals: Decimal places to which numbers are compared.
        seconds: Limit of time for one comparison.
    """

    decimals: int = 6
    seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.decimals < 0:
            raise OptionError("decimals", f"{self.decimals} is below 0", "decimals: 6")
        if self.seconds <= 0:
            raise OptionError("seconds", f"{self.seconds} is not above 0", "seconds: 5")
        require_packages("numeric", "math_verify")

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the values are equal; an expression that takes too long to compare scores 0."""
        text, found, reason = answer.text.strip()[-LONGEST:], None, "there is no expression"
        number = parse_number(text)
        for target in require_target(item, "numeric"):
            expected = parse_number(target)
            if number is not None and expected is not None and "%" not in text + target:
                equal, found = round(number - expected, self.decimals) == 0, str(number)
            else:
                try:
                    value = call_bounded("equal_math", text, target, self.decimals, seconds=self.seconds)
                except TimeoutError as error:
                    reason = str(error)
                    continue
                equal, found = value or (False, None)
            if equal:
                return Verdict({"numeric": 1.0}, extracted=found)
            reason = f"expected {target}" if found is not None else reason
        return Verdict({"numeric": 0.0}, reason, found)
