"""Read the verdict in a judge's reply. Only a JSON object of the right form counts, never a word in the text."""

import json
from collections.abc import Callable, Mapping
from typing import Any

WINNERS = ("A", "B", "tie")
Check = Callable[[Mapping[str, Any]], bool]
"""Function that returns whether an object has the form of a verdict."""


def winner_schema() -> dict[str, Any]:
    """Return the schema of a comparison: ``{"explanation": text, "winner": "A", "B" or "tie"}``."""
    return _schema({"winner": {"type": "string", "enum": list(WINNERS)}})


def rating_schema(low: float, high: float) -> dict[str, Any]:
    """Return the schema of a rating: ``{"explanation": text, "rating": number}``."""
    return _schema({"rating": {"type": "number", "minimum": low, "maximum": high}})


def _schema(verdict: Mapping[str, Any]) -> dict[str, Any]:
    properties = {"explanation": {"type": "string"}, **verdict}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def has_winner(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a comparison."""
    return value.get("winner") in WINNERS


def has_rating(low: float, high: float) -> Check:
    """Return a check for ratings within a scale."""

    def check(value: Mapping[str, Any]) -> bool:
        rating = value.get("rating")
        return isinstance(rating, int | float) and not isinstance(rating, bool) and low <= rating <= high

    return check


def parse_reply(text: str, check: Check) -> dict[str, Any] | None:
    """Return the one verdict in a reply; None if there is none, or several that differ.

    Reasoning up to ``</think>`` is left out. Text around the object, such as a code fence, is allowed.
    """
    found = [value for value in _objects(text.rpartition("</think>")[2]) if check(value)]
    verdicts = [{key: value[key] for key in ("winner", "rating") if key in value} for value in found]
    return found[0] if verdicts and all(verdict == verdicts[0] for verdict in verdicts) else None


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text that are not inside another one."""
    decoder, found, place = json.JSONDecoder(), list[dict[str, Any]](), text.find("{")
    while place >= 0:
        try:
            value, place = decoder.raw_decode(text, place)
            found.append(value)
        except (ValueError, RecursionError):
            place += 1
        place = text.find("{", place)
    return found
