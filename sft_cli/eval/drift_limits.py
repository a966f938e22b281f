"""Limits of the drift card, ``eval.limits``."""

from collections.abc import Mapping

from sft_cli.errors import SftError
from sft_cli.scoring.behaviour import CARD_NAMES, OPENERS, SMALLER_IS_WORSE
from sft_cli.utils.similar import closest_name

OPENERS_LIMIT = "openers"
"""Limit of every kind of opener, ``opener_…``."""


def check_limits(limits: Mapping[str, float]) -> None:
    """Refuse a limit of a value that the card does not have.

    Args:
        limits: ``eval.limits``.
    """
    known = (*CARD_NAMES, OPENERS_LIMIT)
    for name in limits:
        if name not in known:
            near = closest_name(name, known)
            raise SftError(
                where=f"eval.limits.{name}",
                problem=f"the drift card has no value {name!r}; it has {', '.join(known)}",
                fix=f"did you mean eval.limits.{near}={limits[name]:g}?" if near else f"remove eval.limits.{name}",
            )


def broken_limits(card: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return the values of a card that are beyond their limits, as text.

    A limit is the largest value, or the smallest of those in ``SMALLER_IS_WORSE``.
    """
    found = []
    for name, limit in limits.items():
        for value in OPENERS if name == OPENERS_LIMIT else (name,):
            is_smallest = value in SMALLER_IS_WORSE
            if value in card and (card[value] < limit if is_smallest else card[value] > limit):
                bound = "at least" if is_smallest else "at most"
                found.append(f"{value} is {card[value]:.4g} (limit {name}: {bound} {limit:g})")
    return found


def unmeasured_limits(card: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return the names of the limits whose values a card does not have."""
    return [name for name in limits if name not in card and (name != OPENERS_LIMIT or not card)]
