"""What one rendering may cost: steps of work, and the size of every value it makes. Counted, so the same everywhere."""

from collections.abc import ItemsView, Iterable, KeysView, ValuesView
from typing import Any

from jinja2 import TemplateError, pass_context

STEPS = 10_000_000
"""Parts of a template that run in one rendering: some seconds. A conversation of 1,000 messages takes a tenth."""
SIZE = 1 << 24
"""Characters of a text, or of all that a list or mapping holds if it were written out."""
PER_STEP = 64
"""Characters that are copied or searched in the time of a step."""
_HOLDS = (list, tuple, dict, set, frozenset, KeysView, ItemsView, ValuesView)


class TooMuch(TemplateError):
    """A rendering goes beyond what it may cost; the message goes on behind "the template"."""


class Budget:
    """What one rendering has cost so far."""

    def __init__(self) -> None:
        self._steps = 0
        self._sizes: dict[int, tuple[Any, int]] = {}

    def begin(self) -> None:
        """Another rendering begins."""
        self._steps = 0
        self._sizes.clear()

    def spend(self, steps: int) -> None:
        """So many steps are taken."""
        self._steps += steps
        if self._steps > STEPS:
            raise TooMuch(f"takes more than {STEPS:,} steps for one text")

    def size(self, value: Any) -> int:
        """The characters of a value written out; those of what is held twice count twice.

        Nothing that a sandbox holds changes, so each list or mapping is walked once.
        """
        if isinstance(value, str | bytes):
            return len(value)
        if not isinstance(value, _HOLDS):
            return 1
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1]
        self.spend(len(value))
        size = 1
        for entry in value.items() if isinstance(value, dict) else value:
            size += self.size(entry[0]) + self.size(entry[1]) if isinstance(value, dict) else self.size(entry)
        self._sizes[id(value)] = value, size  # kept, or another object may get its id
        return size

    def kept(self, value: Any) -> Any:
        """The value, if it is not too large."""
        if type(value) is str and len(value) < SIZE:  # as below, in a third of the time
            self._steps += 1 + len(value) // PER_STEP
            if self._steps <= STEPS:
                return value
        self.spend(1 + self.expected(self.size(value)) // PER_STEP)
        return value

    def expected(self, size: int) -> int:
        """A size, if a value may have it."""
        if size > SIZE:
            raise TooMuch(f"makes a text or list of more than {SIZE:,} characters")
        return size

    def joined(self, pieces: tuple[Any, ...]) -> str:
        """The texts of values one behind the other."""
        if set(map(type, pieces)) == {str}:
            return self.kept("".join(pieces)) if self.expected(sum(map(len, pieces))) else ""
        self.expected(sum(map(self.size, pieces)))
        return self.kept("".join(map(str, pieces)))

    @pass_context
    def step(self, context: Any, cost: int) -> bool:
        """A round of a loop, or a call of a macro, that takes so many steps; true, to stand before a condition."""
        self._steps += cost
        if self._steps > STEPS:
            self.spend(0)
        return True

    def text(self, value: Any) -> str:
        """A value as it is put into a text."""
        return value if type(value) is str else str(self.kept(value))

    def concat(self, pieces: Iterable[str]) -> str:
        """The text that its pieces make."""
        pieces = list(pieces)
        self.spend(self.expected(sum(map(len, pieces))) // PER_STEP)
        return "".join(pieces)
