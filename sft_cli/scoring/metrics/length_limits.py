"""Check limits on the length of an answer: those of the options, or those that the prompt asks for in words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

from sft_cli.scoring.base import MeanScorer, OptionError
from sft_cli.scoring.normalize import REASONING_END
from sft_cli.scoring.types import Answer, Item, Verdict

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"a": 1, "a single": 1, "single": 1, **{word: number for number, word in enumerate(_WORDS, 1)}}
_NUMBER = rf"(?P<number>\d{{1,3}}(?:,\d{{3}})+|\d+|{'|'.join(sorted(NUMBERS, key=len, reverse=True))})"
_UNIT = r"(?P<unit>sentence|word|paragraph|character|line)s?"
_MOST = r"at most|no more than|not more than|maximum(?: of)?|max\.?|up to|within|under|fewer than|less than"
_LEAST = r"at least|no fewer than|no less than|minimum(?: of)?|more than"
LIMIT = re.compile(
    rf"\b(?:(?P<most>{_MOST})|(?P<least>{_LEAST})|(?P<exact>exactly|in|with|using|as))\s+(?:a total of\s+)?"
    rf"{_NUMBER}[ -](?:short |single |simple |brief )?{_UNIT}\b(?P<after>\s+or\s+(?:less|fewer|more))?",
    re.IGNORECASE,
)
STRICT = re.compile(r"under|fewer than|less than|more than", re.IGNORECASE)
"""Limits that the number itself does not meet."""
ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|approx|No|Fig|[A-Z])\.$")


class Limit(NamedTuple):
    """A limit on an answer's length; ``most`` is None if there is no upper limit."""

    unit: str
    least: int
    most: int | None


def limits_in_prompt(prompt: str) -> list[Limit]:
    """Return the limits that a prompt asks for, such as "in one sentence" or "at most 50 words"."""
    return list(_limits(prompt))


def _limits(prompt: str) -> Iterator[Limit]:
    """Yield the limits of a prompt; ``in 50 words`` allows fewer, ``in one sentence`` is exact."""
    for match in LIMIT.finditer(prompt):
        text, unit = match["number"].lower().replace(",", ""), match["unit"].lower()
        number = NUMBERS[text] if text in NUMBERS else int(text[:9])
        after = (match["after"] or "").lower()
        if after.endswith("more") or (
            match["least"] and "least" not in match["least"] and "more" not in match["least"]
        ):
            yield Limit(unit, number, None)
        elif match["least"] and not after:
            yield Limit(unit, number + bool(STRICT.fullmatch(match["least"])), None)
        elif match["most"] or after or (unit in ("word", "character") and match["exact"].lower() != "exactly"):
            yield Limit(unit, 0, number - bool(match["most"] and STRICT.fullmatch(match["most"])))
        else:
            yield Limit(unit, number, number)


def count_sentences(text: str) -> int:
    """Return the number of sentences: pieces that end with a mark before white space, or at the end of a line."""
    count = 0
    for line in text.splitlines():
        pieces = re.split(r"(?<=[.!?…。！？])[\"'”’)\]*_]*(?:\s+|(?<=[。！？]))", line.strip())
        open_piece = ""
        for piece in pieces:
            open_piece += piece
            if (
                re.search(r"\w", open_piece)
                and not ABBREVIATION.search(open_piece)
                and not re.fullmatch(r"\W*\d+\.", open_piece)
            ):
                count += 1
                open_piece = ""
        count += bool(re.search(r"\w", open_piece))
    return count


def count_units(text: str, unit: str) -> int:
    """Return the number of words, characters, sentences, lines that are not empty, or paragraphs."""
    stripped = text.strip()
    if unit == "word":
        return len(stripped.split())
    if unit == "character":
        return len(stripped)
    if unit == "sentence":
        return count_sentences(stripped)
    if unit == "line":
        return sum(1 for line in stripped.splitlines() if line.strip())
    return len([part for part in re.split(r"\n\s*\n", stripped) if part.strip()])


@dataclass(frozen=True, slots=True)
class LengthLimits(MeanScorer):
    """``length_kept``: the answer keeps every limit; an item without a limit has no score.

    Attributes:
        min_words: Fewest words; None for no limit. If no option is set, the limits are read from the last user message.
        max_words: Most words.
        min_sentences: Fewest sentences.
        max_sentences: Most sentences.
        max_characters: Most characters.
        max_paragraphs: Most paragraphs.
    """

    min_words: int | None = None
    max_words: int | None = None
    min_sentences: int | None = None
    max_sentences: int | None = None
    max_characters: int | None = None
    max_paragraphs: int | None = None

    def __post_init__(self) -> None:
        for name, value in self._set_options().items():
            if value < 0:
                raise OptionError(name, f"{value} is below 0", f"{name}: 1")

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return 1 if all limits are kept."""
        text = answer.text.rpartition(REASONING_END)[2]
        broken = []
        limits = self._limits_of(item)
        for unit, least, most in limits:
            number = count_units(text, unit)
            if number < least or (most is not None and number > most):
                wanted = f"at least {least}" if most is None else f"at most {most}" if number > most else f"{least}"
                broken.append(f"{number} {unit}s, expected {wanted}")
        return Verdict({"length_kept": float(not broken)} if limits else {}, "; ".join(broken))

    def _set_options(self) -> dict[str, int]:
        """Return the options that are not None."""
        values = {field.name: self.__getattribute__(field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _limits_of(self, item: Item) -> list[Limit]:
        """Return the limits of an item."""
        options = self._set_options()
        if options:
            kinds = [(name.partition("_"), value) for name, value in options.items()]
            return [
                Limit(unit.removesuffix("s"), value, None) if kind == "min" else Limit(unit.removesuffix("s"), 0, value)
                for (kind, _, unit), value in kinds
            ]
        user = [str(message["content"]) for message in item.messages if message["role"] == "user"]
        return limits_in_prompt(user[-1]) if user else []
