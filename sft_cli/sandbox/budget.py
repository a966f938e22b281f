"""The budget of one rendering: steps of work and size of values, counted independently of the machine."""

from collections.abc import ItemsView, Iterable, KeysView, Sequence, ValuesView
from typing import Any

from jinja2 import TemplateError, pass_context

MAX_STEPS = 10_000_000
"""Most steps of one rendering, which take some seconds. A conversation of 1,000 messages takes a tenth of them."""
MAX_SIZE = 1 << 24
"""Most characters of a text, or of a list or mapping as text."""
CHARACTERS_PER_STEP = 64
"""Characters copied or searched in the time of one step."""
_CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ItemsView, ValuesView)


class BudgetExceeded(TemplateError):
    """A rendering exceeds its budget; the message continues the sentence "the template …"."""


class RecordedSequence(Sequence[Any]):
    """A sequence that records how a template reads it.

    The budget measures ``_entries``, its entries as a plain sequence: that is not a read of the template. Templates
    cannot read a private name.
    """

    _entries: Sequence[Any]


class RenderBudget:
    """Counter of the cost of one rendering."""

    def __init__(self) -> None:
        self._steps = 0
        self._sizes: dict[int, tuple[Any, int]] = {}

    def reset(self) -> None:
        """Start another rendering."""
        self._steps = 0
        self._sizes.clear()

    @property
    def steps(self) -> int:
        """The steps of the rendering so far."""
        return self._steps

    def spend(self, steps: int) -> None:
        """Count steps."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise BudgetExceeded(f"takes more than {MAX_STEPS:,} steps for one text")

    def size(self, value: Any) -> int:
        """Return the number of characters of a value as text; repeated values count each time.

        Values in a sandbox are immutable, so each list or mapping is measured once.
        """
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, RecordedSequence):
            value = value._entries
        if not isinstance(value, _CONTAINERS):
            return 1
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1]
        self.spend(len(value))
        size = 1
        for entry in value.items() if isinstance(value, dict) else value:
            size += self.size(entry[0]) + self.size(entry[1]) if isinstance(value, dict) else self.size(entry)
        self._sizes[id(value)] = value, size  # keep the value, so that no other object gets its id
        return size

    def charge(self, value: Any) -> Any:
        """Return the value if it is not too large, and count the steps to create it."""
        if type(value) is str and len(value) < MAX_SIZE:  # fast path of the code below
            self._steps += 1 + len(value) // CHARACTERS_PER_STEP
            if self._steps <= MAX_STEPS:
                return value
        self.spend(1 + self.check_size(self.size(value)) // CHARACTERS_PER_STEP)
        return value

    def check_size(self, size: int) -> int:
        """Return the size if it is allowed."""
        if size > MAX_SIZE:
            raise BudgetExceeded(f"creates a text or list of more than {MAX_SIZE:,} characters")
        return size

    def join(self, pieces: tuple[Any, ...]) -> str:
        """Concatenate the texts of values."""
        if set(map(type, pieces)) == {str}:
            return self.charge("".join(pieces)) if self.check_size(sum(map(len, pieces))) else ""
        self.check_size(sum(map(self.size, pieces)))
        return self.charge("".join(map(str, pieces)))

    @pass_context
    def count_step(self, context: Any, cost: int) -> bool:
        """Count the steps of a loop iteration or a macro call, and return True, so that it can precede a condition."""
        self._steps += cost
        if self._steps > MAX_STEPS:
            self.spend(0)
        return True

    def to_text(self, value: Any) -> str:
        """Return a value as text for output."""
        return value if type(value) is str else str(self.charge(value))

    def concat(self, pieces: Iterable[str]) -> str:
        """Concatenate pieces of text."""
        pieces = list(pieces)
        self.spend(self.check_size(sum(map(len, pieces))) // CHARACTERS_PER_STEP)
        return "".join(pieces)
