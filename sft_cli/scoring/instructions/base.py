"""Types of verifiable instructions: a check, its typed arguments, and a description for messages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NewType

Relation = Literal["less than", "at least"]
Language = NewType("Language", str)
"""A language code that the language detector knows, such as ``en``."""


@dataclass(frozen=True, slots=True)
class InstructionType:
    """A kind of instruction.

    Attributes:
        check: Returns whether an answer follows the instruction. Takes the answer, and the arguments of the item by
            keyword; their annotations say what values are accepted.
        description: What the answer must do, with the names of arguments in braces.
    """

    check: Callable[..., bool]
    description: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction of an item.

    Attributes:
        id: The name of its type, such as ``length_constraints:number_words``.
        type: The type.
        kwargs: The arguments of the check.
    """

    id: str
    type: InstructionType
    kwargs: Mapping[str, Any]

    def is_followed(self, answer: str) -> bool:
        """Return whether an answer follows the instruction; an answer without visible characters never does."""
        return bool(answer.strip()) and self.type.check(answer, **self.kwargs)

    def describe(self) -> str:
        """Return what the answer must do."""
        shown = {name: _shown(value) for name, value in self.kwargs.items()}
        return self.type.description.format(**shown)


def satisfies(count: int, relation: Relation, bound: int) -> bool:
    """Return whether a count is less than a bound, or at least the bound."""
    return count < bound if relation == "less than" else count >= bound


def _shown(value: Any) -> str:
    """Return an argument as a message shows it, at most about 60 characters."""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
