"""Read the final number of a worked solution in the two ways of GSM8K (Cobbe et al. 2021, arXiv:2110.14168).

``strict`` wants the form of the training data, ``#### 42``. ``flexible`` takes the last number of the answer, and so
undercounts models that continue writing after it. They are two metrics: the difference shows a model that is right in
another form.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from sft_cli.scoring.base import MeanScorer, item_error, require_target
from sft_cli.scoring.types import Answer, Item, Verdict

MAX_DIGITS = 1000
"""Characters of a number; longer ones are no answer."""
_AMOUNT = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# A minus sign after a digit, letter or bracket is an operation or a range: 10-3.
NUMBER = re.compile(
    rf"(?<![\w.)\]])(?P<sign>[-−–]?)\s?[$€£]?(?P<inner>[-−–]?)(?P<amount>{_AMOUNT})|(?P<last>{_AMOUNT})"
)
STRICT = re.compile(r"####\s*(?P<text>[-−–+]?\s?[$€£]?\s?[-−–]?[0-9.,]+)")


def parse_number(text: str) -> Decimal | None:
    """Return the number that a text is; signs of currency and percent, commas and a final full stop are dropped."""
    plain = text.strip().replace("−", "-").replace("–", "-")
    plain = re.sub(r"[$€£%,\s]", "", plain).rstrip(".").removeprefix("+")
    if len(plain) > MAX_DIGITS or not re.fullmatch(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)", plain):
        return None
    return Decimal(plain)


def strict_number(text: str) -> Decimal | None:
    """Return the number after the first ``####``; None if there is none."""
    match = STRICT.search(text)
    return parse_number(match["text"]) if match else None


def last_number(text: str) -> Decimal | None:
    """Return the last number of a text; None if there is none."""
    end = max(text.rfind(digit) for digit in "0123456789") + 1
    matches = list(NUMBER.finditer(text, max(0, end - 2 * MAX_DIGITS), end))
    if not matches:
        return None
    match = matches[-1]
    amount = match["amount"] or match["last"]
    number = parse_number(amount)
    return -number if number is not None and (match["sign"] or match["inner"]) else number


def _verdict(name: str, item: Item, found: Decimal | None, missing: str) -> Verdict:
    """Return the verdict of a number that was read from an answer."""
    expected = []
    for target in require_target(item, name):
        number = strict_number(target) if "####" in target else parse_number(target)
        if number is None:
            raise item_error(item, f"the expected answer {target[:60]!r} is no number", "correct the item's target")
        expected.append(number)
    if found is None:
        return Verdict({name: 0.0}, missing)
    correct = found in expected
    return Verdict({name: float(correct)}, "" if correct else f"expected {expected[0]}", str(found)[:100])


@dataclass(frozen=True, slots=True)
class Gsm8kStrict(MeanScorer):
    """``gsm8k_strict``: the number after ``####`` is the expected one."""

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the number is right."""
        return _verdict("gsm8k_strict", item, strict_number(answer.text), "there is no #### followed by a number")


@dataclass(frozen=True, slots=True)
class Gsm8kFlexible(MeanScorer):
    """``gsm8k_flexible``: the last number of the answer is the expected one."""

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the number is right."""
        return _verdict("gsm8k_flexible", item, last_number(answer.text), "there is no number")
