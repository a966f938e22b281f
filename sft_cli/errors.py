"""Errors a user can fix. Anything else is a bug and keeps its traceback."""

from collections.abc import Sequence
from typing import Any


class SftError(Exception):
    """A problem in the user's recipe, data or environment.

    Attributes:
        where: The place to look, e.g. ``data/train.jsonl:17`` or ``recipe alpaca_lora, adapter.rank``.
        problem: What is wrong, with the value that was found.
        fix: The next thing to type or edit.
    """

    def __init__(self, *, where: str, problem: str, fix: str) -> None:
        super().__init__(f"{where}: {problem}\n  fix: {fix}")
        self.where, self.problem, self.fix = where, problem, fix

    def __reduce__(self) -> tuple[Any, ...]:
        """How a worker process hands the error to its parent: exceptions with keyword arguments need telling."""
        return _rebuilt, (type(self), self.args, self.__dict__)


class Elsewhere(Exception):
    """Another process of the run failed and has said why; this one ends in silence.

    Attributes:
        code: Exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__("another process of the run failed")
        self.code = code


class Mistakes(SftError):
    """Several independent mistakes of one input, told at once.

    Attributes:
        errors: The mistakes, in the order they were found; at least one.
    """

    def __init__(self, errors: Sequence[SftError]) -> None:
        assert errors, "Mistakes needs at least one error"
        first = errors[0]
        super().__init__(where=first.where, problem=first.problem, fix=first.fix)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """Every mistake with its fix, one below the other."""
        return "\n".join(str(error) for error in self.errors)


def raise_all(errors: Sequence[SftError]) -> None:
    """Raise nothing for no errors, the error itself for one, ``Mistakes`` for several."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Mistakes(errors)


def _rebuilt(kind: type[SftError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> SftError:
    """An error as it was in another process."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error
