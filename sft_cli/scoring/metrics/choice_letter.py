"""Read the letter of a multiple-choice answer from generated text; an ambiguous answer is wrong."""

import re
from dataclasses import dataclass

from sft_cli.scoring.base import MeanScorer, OptionError, item_error, require_target
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.types import Answer, Item, Verdict

_STATED = r"(?:answer|option|choice)(?:\s+(?:is|would be|should be))?\s*:?\s*(?:option|choice|letter)?\s*"
_MARKS = r"[*_`\"'“‘(\[{$]*(?:\\boxed\{)?(?:\\text\{)?"


@dataclass(frozen=True, slots=True)
class ChoiceLetter(MeanScorer):
    r"""``choice``: the answer chooses the right letter.

    Read are, in this order: an answer that is or begins with a letter (``B``, ``(B)``, ``B. Paris``), a statement
    (``the answer is B``, ``\boxed{B}``), and letters in brackets. Where several letters are found, the answer is
    ambiguous.

    Attributes:
        letters: The letters of the choices.
    """

    letters: str = "ABCD"

    def __post_init__(self) -> None:
        if len(set(self.letters.upper())) < max(2, len(self.letters)) or not self.letters.isalnum():
            raise OptionError("letters", f"{self.letters!r} are not two or more different letters", "letters: ABCD")

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if the letter is right; ``ambiguous`` and ``none`` are labels of their own."""
        expected = require_target(item, "choice_letter")[0].strip().upper()
        if expected not in self.letters.upper() or len(expected) != 1:
            raise item_error(
                item, f"{expected!r} is not one of the letters {self.letters}", "correct the item's target"
            )
        found = self.find_letters(answer.text)
        label = next(iter(found)) if len(found) == 1 else "ambiguous" if found else "none"
        reason = "" if label == expected else f"expected {expected}, found {', '.join(sorted(found)) or 'no letter'}"
        return Verdict({"choice": float(label == expected)}, reason, label, label)

    def find_letters(self, text: str) -> set[str]:
        """Return the letters that an answer chooses: one if it is clear."""
        plain = text.rpartition(REASONING_END)[2].strip()
        choices = f"[{re.escape(self.letters.upper())}{re.escape(self.letters.lower())}]"
        upper = f"[{re.escape(self.letters.upper())}]"
        alone = re.fullmatch(rf"{_MARKS}({choices})[\W_]*", plain[:50])
        if alone and len(plain) <= 50:
            return {alone[1].upper()}
        end = r"(?:\}|(?![\w'’]))"
        stated = re.findall(rf"(?i:{_STATED}){_MARKS}({upper}){end}|\\boxed\{{(?:\\text\{{)?\(?({upper})\W", plain)
        start = re.match(
            rf"(?:\(({upper})\)|[*_]*({upper})(?:[.):,][*_]*(?:\s|$)|[*_]+(?:\W|$)|\s*\n)|\[({upper})\])", plain
        )
        bracketed = set(re.findall(rf"[(\[]({upper})[)\]]", plain))
        letters = {letter for groups in stated for letter in groups if letter}
        if start:
            first = next(letter for letter in start.groups() if letter)
            others = set(re.findall(rf"^\s*[*_]*\(?({upper})[.):]", plain, re.MULTILINE))
            return {first} | letters | others | (bracketed if plain[0] in "([" else set())
        return letters or bracketed
