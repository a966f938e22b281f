"""Arithmetic of named figures: numbers, names, + - * and parentheses. Nothing else can be written, and no code runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

NAME = r"[A-Za-z_]\w*(?:-[A-Za-z_]\w*)*\.[\w@]+"
"""A group and a figure with a dot between them: only the group may contain hyphens."""
_TOKEN = re.compile(rf"\s*(?:(?P<name>{NAME})|(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<sign>[-+*()]))")
MAX_LENGTH = 200
"""Longest text of an expression; it also limits how deep parentheses are nested."""

Value = Callable[[Mapping[str, float]], float]


class ExpressionError(ValueError):
    """A text is not an expression; the message is a phrase that says why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression.

    Attributes:
        text: The text as written.
        names: The names in it, in order of appearance.
    """

    text: str
    names: tuple[str, ...]
    _value: Value

    def evaluate(self, figures: Mapping[str, float | None]) -> float | None:
        """Return the value for these figures by name; None if one of them is missing."""
        found = {name: value for name in self.names if (value := figures.get(name)) is not None}
        return self._value(found) if len(found) == len(self.names) else None


def parse_expression(text: str) -> Expression:
    """Parse an expression such as ``0.5*ifeval.prompt_strict - heldout.loss``.

    Raises:
        ExpressionError: The text is not an expression.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"it is longer than {MAX_LENGTH} characters")
    parser = _Parser(_tokens(text))
    value = parser.sum()
    if parser.next is not None:
        raise ExpressionError(f"{parser.next!r} is not expected after a complete expression")
    return Expression(text, tuple(dict.fromkeys(parser.names)), value)


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each token."""
    tokens, at, stripped = list[tuple[str, str]](), 0, text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            rest = stripped[at:].split()[0]
            raise ExpressionError(f"{rest!r} is neither a number nor a name such as heldout.loss, nor one of + - * ( )")
        assert match.lastgroup is not None
        tokens.append((match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return tokens


class _Parser:
    """A parser by recursive descent: sum = product {+|- product}; product = factor {* factor}."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._at = tokens, 0
        self.names: list[str] = []

    @property
    def next(self) -> str | None:
        """The text of the next token; None at the end."""
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _take(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise ExpressionError("it ends where a number or a name is expected")
        self._at += 1
        return self._tokens[self._at - 1]

    def sum(self) -> Value:
        """Parse a sum."""
        value = self._product()
        while self.next in ("+", "-"):
            value = _combined(value, self._take()[1], self._product())
        return value

    def _product(self) -> Value:
        value = self._factor()
        while self.next == "*":
            value = _combined(value, self._take()[1], self._factor())
        return value

    def _factor(self) -> Value:
        kind, text = self._take()
        if kind == "number":
            number = float(text)
            return lambda _: number
        if kind == "name":
            self.names.append(text)
            return lambda figures: figures[text]
        if text in ("-", "+"):
            inner = self._factor()
            return inner if text == "+" else lambda figures: -inner(figures)
        if text != "(":
            raise ExpressionError(f"{text!r} is where a number or a name is expected")
        inner = self.sum()
        if self.next != ")":
            raise ExpressionError("a parenthesis is not closed")
        self._take()
        return inner


def _combined(left: Value, sign: str, right: Value) -> Value:
    """Return the sum, difference or product of two values."""
    if sign == "*":
        return lambda figures: left(figures) * right(figures)
    if sign == "+":
        return lambda figures: left(figures) + right(figures)
    return lambda figures: left(figures) - right(figures)
