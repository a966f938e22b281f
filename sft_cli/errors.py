"""Errors a user can fix. Anything else is a bug and keeps its traceback."""

from collections.abc import Sequence
from typing import Any


class SftError(Exception):
    """A problem in the user's recipe, data or environment.

    Attributes:
        where: Place of the problem, e.g. ``data/train.jsonl:17`` or ``recipe alpaca_lora, adapter.rank``.
        problem: Description of the problem, with the offending value.
        fix: Words to type, or a change to make; one alternative per line.
    """

    def __init__(self, *, where: str, problem: str, fix: str) -> None:
        alternatives = fix.replace("\n", "\n   or: ")
        super().__init__(f"{where}: {problem}\n  fix: {alternatives}")
        self.where, self.problem, self.fix = where, problem, fix

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to recreate the error in another process, since keyword arguments prevent the default."""
        return _rebuilt, (type(self), self.args, self.__dict__)


class Elsewhere(Exception):
    """Another process of the run failed and has printed its error; this one ends without a message.

    Attributes:
        code: Exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__("another process of the run failed")
        self.code = code


class Mistakes(SftError):
    """Several independent mistakes in one input, reported together.

    Attributes:
        errors: The mistakes in input order; at least one.
    """

    def __init__(self, errors: Sequence[SftError]) -> None:
        assert errors, "Mistakes needs at least one error"
        first = errors[0]
        super().__init__(where=first.where, problem=first.problem, fix=first.fix)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """Return every mistake with its fix, on separate lines."""
        return "\n".join(str(error) for error in self.errors)


def raise_all(errors: Sequence[SftError]) -> None:
    """Raise the error if there is one, ``Mistakes`` if there are several, and nothing for none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Mistakes(errors)


def _rebuilt(kind: type[SftError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> SftError:
    """Recreate an error from another process."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error
