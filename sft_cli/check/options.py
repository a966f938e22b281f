"""Options of ``sft check``."""

from dataclasses import dataclass

from sft_cli.check.gpus import Gpu
from sft_cli.config.keys.typos import suggest_values
from sft_cli.errors import SftError

ROWS = 500
"""Default number of rows of each source to check."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The options of ``sft check``.

    Attributes:
        gpu: GPU whose memory must suffice; None takes this machine's.
        rows: Rows of each source; None for all.
        tokens_per_second: Speed of the whole job; None if unknown.
        price: Price of a GPU hour, in any currency; None for no cost.
        like: An earlier run whose speed is used.
    """

    gpu: Gpu | None = None
    rows: int | None = ROWS
    tokens_per_second: float | None = None
    price: float | None = None
    like: str | None = None

    def __post_init__(self) -> None:
        """Check that only one speed is given.

        Raises:
            SftError: Both ``tokens_per_second`` and ``like`` are given.
        """
        if self.tokens_per_second is not None and self.like is not None:
            fix = "remove --tokens-per-second or --like"
            raise SftError(where="--like", problem="the speed is given twice", fix=fix)


def row_limit(text: str) -> int | None:
    """Return the number of rows of ``--rows``; None for ``all``.

    Raises:
        SftError: The text is neither a number nor ``all``.
    """
    plain = text.replace("_", "")
    if plain == "all":
        return None
    if plain.isdecimal() and int(plain) > 0:
        return int(plain)
    suggestions = suggest_values(int, {"ge": 1}, text)
    meant = "--rows all" if plain.lower() in ("none", "null", "-1") or not suggestions else f"--rows {suggestions[0]}"
    raise SftError(where=f"--rows {text}", problem="not a number of rows", fix=f"did you mean {meant}?")
