"""The words of `sft check` that are not settings of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from sft_cli.check.gpus import Card, card
from sft_cli.config.keys.typos import positive
from sft_cli.config.overrides.parse import split_off
from sft_cli.errors import SftError, raise_all

ROWS = 500
"""Rows of each source that are looked at, unless said otherwise."""
NAMES = ("gpu", "rows", "tokens_per_second", "price", "like")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was asked beside the run's own settings.

    Attributes:
        gpu: The card to fit into; None takes this machine's.
        rows: Rows of each source; None for all.
        tokens_per_second: Of the whole job; None where it was not said.
        price: Of a GPU hour, in whatever currency; None where it was not said.
        like: An earlier run whose speed is taken.
    """

    gpu: Card | None = None
    rows: int | None = ROWS
    tokens_per_second: float | None = None
    price: float | None = None
    like: str | None = None


def asked(words: Sequence[str]) -> tuple[Asked, list[str]]:
    """The command's own words, and those that are left for the config.

    Raises:
        SftError: Every one of them that cannot be read.
    """
    own, rest = split_off(words, NAMES)
    wrong: list[SftError] = []
    gpu = None
    try:
        gpu = card(own["gpu"]) if "gpu" in own else None
    except SftError as error:
        wrong.append(error)
    speed, price = (_positive(own, name, wrong) for name in ("tokens_per_second", "price"))
    rows: int | None = ROWS
    if "rows" in own:
        text = own["rows"].replace("_", "")
        rows = None if text == "all" else int(text) if text.isdecimal() else 0
        if rows == 0:
            fix = "rows=all" if text.lower() in ("none", "null", "-1") else positive("rows", text, whole=True)
            wrong.append(SftError(where=f"rows={own['rows']}", problem="no number of rows", fix=fix))
    if speed is not None and "like" in own:
        wrong.append(
            SftError(where="like", problem="the speed is given twice", fix="leave tokens_per_second or like out")
        )
    raise_all(wrong)
    return Asked(gpu, rows, speed, price, own.get("like")), rest


def _positive(own: dict[str, str], name: str, wrong: list[SftError]) -> float | None:
    """A positive number, or None where it was not said."""
    if name not in own:
        return None
    try:
        number = float(own[name].replace("_", ""))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        wrong.append(SftError(where=f"{name}={own[name]}", problem="no positive number", fix=positive(name, own[name])))
        return None
    return number
