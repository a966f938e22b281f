"""What ``sft check`` assumes of the machine and of the cost."""

from dataclasses import dataclass

from sft_cli.check.gpus import Gpu
from sft_cli.config.keys.typos import suggest_values
from sft_cli.errors import SftError

ROWS = 500
"""Rows of each source that are looked at by default."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The options of ``sft check``.

    Attributes:
        gpu: The card to fit into; None takes this machine's.
        rows: Rows of each source; None for all.
        tokens_per_second: Of the whole job; None where it is not known.
        price: Of a GPU hour, in whatever currency; None for no cost.
        like: An earlier run whose speed is taken.
    """

    gpu: Gpu | None = None
    rows: int | None = ROWS
    tokens_per_second: float | None = None
    price: float | None = None
    like: str | None = None

    def __post_init__(self) -> None:
        """Refuse two speeds.

        Raises:
            SftError: Both ``tokens_per_second`` and ``like`` are given.
        """
        if self.tokens_per_second is not None and self.like is not None:
            fix = "leave --tokens-per-second or --like out"
            raise SftError(where="--like", problem="the speed is given twice", fix=fix)


def row_limit(text: str) -> int | None:
    """The rows of ``--rows``: a number, or None for ``all``.

    Raises:
        SftError: It is neither.
    """
    plain = text.replace("_", "")
    if plain == "all":
        return None
    if plain.isdecimal() and int(plain) > 0:
        return int(plain)
    near = suggest_values(int, {"ge": 1}, text)
    meant = "--rows all" if plain.lower() in ("none", "null", "-1") or not near else f"--rows {near[0]}"
    raise SftError(where=f"--rows {text}", problem="it is no number of rows", fix=f"did you mean {meant}?")
