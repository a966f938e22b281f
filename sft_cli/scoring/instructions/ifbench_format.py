"""IFBench ``format:``: brackets, quotes, lists, lines, case and templates."""

import re
import string
from itertools import pairwise

from sft_cli.scoring.instructions.text import STRIPPED, is_emoji, punkt_sentences, without_punctuation, word_tokens

CLOSING = {"(": ")", "[": "]", "{": "}"}
MIN_BRACKETS, MIN_QUOTES = 5, 3
"""Levels of brackets and of quotes that are wanted."""
LABELS = ("My Answer:", "My Conclusion:", "Future Outlook:")
"""The labels of ``output_template``."""


def parentheses(answer: str) -> bool:
    """Return whether brackets are nested five levels deep and the innermost is closed; a mismatch resets the count."""
    open_brackets: list[str] = []
    deepest = 0
    for character in answer:
        if character in CLOSING:
            open_brackets.append(CLOSING[character])
            deepest = max(deepest, len(open_brackets))
        elif character in CLOSING.values():
            if not open_brackets or open_brackets.pop() != character:
                open_brackets, deepest = [], 0
            elif deepest >= MIN_BRACKETS:
                return True
    return False


def quotes(answer: str) -> bool:
    """Return whether double and single quotes are nested three levels deep and closed; apostrophes count as quotes."""
    open_quotes: list[str] = []
    deepest = 0
    for character in answer:
        if open_quotes and character == open_quotes[-1]:
            open_quotes.pop()
            if deepest - len(open_quotes) >= MIN_QUOTES:
                return True
        elif character in "\"'":
            open_quotes.append(character)
            deepest = max(deepest, len(open_quotes))
    return False


def options(answer: str, *, options: str) -> bool:
    """Return whether the answer is one of the options, in any case; options such as ``a), b)`` must match exactly."""
    separator = next((mark for mark in ("/", "or") if mark in options), ",")
    allowed = [option.strip() for option in options.split(separator)]
    if re.match(r"\W*[aA]\W*[bB]\W*[cC]\W*", options):
        return answer in allowed
    return answer.strip(STRIPPED).lower() in [option.strip(STRIPPED).lower() for option in allowed]


def newline(answer: str) -> bool:
    """Return whether there are as many lines that are not empty as words."""
    text = without_punctuation(answer).strip()
    return sum(1 for line in text.split("\n") if line) == len(text.split())


def emoji(answer: str) -> bool:
    """Return whether each sentence ends with an emoji, before or after its last mark."""
    sentences = [without_punctuation(sentence).strip() for sentence in punkt_sentences(answer)]
    for sentence, following in zip(sentences, [*sentences[1:], ""], strict=True):
        at_end = any(map(is_emoji, sentence[-2:]))
        after_mark = bool(sentence and following) and is_emoji(following[0])
        if not at_end and not after_mark:
            return False
    return True


def line_indent(answer: str) -> bool:
    """Return whether each line is indented by more spaces than the one before it; blank lines do not count."""
    lines = [line for line in answer.split("\n") if line.strip()]
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    return all(before < after for before, after in pairwise(indents))


def quote_unquote(answer: str) -> bool:
    """Return whether text without quotation marks follows each quotation; the mark alone in ``'"'`` is not one."""
    text = "".join(answer.replace("'\"'", "").split())
    ending = text.rstrip(string.digits + string.punctuation.replace('"', ""))
    return '""' not in text and not ending.endswith('"')


def separated_list(answer: str, *, sep: str) -> bool:
    """Return whether the marker of list items occurs at least twice."""
    return answer.count(sep) >= 2


def thesis(answer: str) -> bool:
    """Return whether a text in HTML italics is followed by other text."""
    _, tag, rest = answer.partition("<i>" if "<i>" in answer else "<em>")
    end = "</i>" if "</i>" in rest else "</em>"
    text, closed, after = rest.partition(end)
    return bool(tag and closed and text.strip() and after.strip())


def sub_bullets(answer: str) -> bool:
    """Return whether a ``-`` follows each ``*`` before the next one; as published, no ``*`` at all is fine."""
    return all("-" in bullet for bullet in answer.split("*")[1:])


def no_bullets_bullets(answer: str) -> bool:
    """Return whether lines with two sentences come first and at least two lines that start with ``*`` end the answer.

    As published, only one blank line is allowed, between the sentences and the bullets.
    """
    lines = [line.strip() for line in answer.split("\n")]
    first = next((place for place, line in enumerate(lines) if line.startswith("*")), len(lines))
    text, bullets = lines[:first], lines[first:]
    if len(bullets) < 2 or not all(line.startswith("*") for line in bullets) or not all(text[:-1]):
        return False
    return sum(len(punkt_sentences(line)) for line in text) >= 2


def title_case(answer: str) -> bool:
    """Return whether no word starts with a small letter; as published, in ``don't`` the token ``n't`` does."""
    return not any(_breaks_title_case(token) for token in word_tokens(answer) if token[0].isalpha())


def _breaks_title_case(token: str) -> bool:
    """Return whether a word starts with a small letter and continues in one case."""
    rest = token[1:]
    return token[0].islower() and (not rest or rest.isupper() or rest.islower())


def output_template(answer: str) -> bool:
    """Return whether all labels of the template occur."""
    return all(label in answer for label in LABELS)


def no_whitespace(answer: str) -> bool:
    """Return whether there is no whitespace."""
    return not any(map(str.isspace, answer))
