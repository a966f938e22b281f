"""A rendered text and what of it is trained, in characters."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` of a rendered text that are trained with ``weight``."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and its trained spans, in order; the last span ends the text.

    ``stops`` names the stop token that ends each span; ``muted`` are the character ranges inside spans that carry no
    loss, in order and apart; ``results`` those outside spans, before the last one, that are trained as they stand: what
    tools answered or users said, and stop tokens that close it, in order and apart; ``beside`` names one of them;
    ``remarks`` are keys of data/remarks.py.
    """

    text: str
    spans: tuple[Span, ...]
    stops: tuple[str, ...]
    muted: tuple[tuple[int, int], ...] = ()
    results: tuple[tuple[int, int], ...] = ()
    remarks: frozenset[str] = frozenset()
    beside: str = "tool result"


def joined(turns: Sequence[Rendered]) -> Rendered:
    """One rendering that serves every turn: each earlier text must be a prefix of the last one."""
    last = turns[-1]
    assert all(last.text.startswith(turn.text) for turn in turns), "a rewritten history is unrolled"
    muted = tuple(place for turn in turns for place in turn.muted)
    spans, stops = tuple(turn.spans[0] for turn in turns), tuple(turn.stops[0] for turn in turns)
    results = tuple(place for turn in turns for place in turn.results)
    remarks = frozenset(key for turn in turns for key in turn.remarks)
    return Rendered(last.text, spans, stops, muted, results, remarks, last.beside)


def outside(text: str, answer: tuple[int, int], muted: Sequence[tuple[int, int]]) -> str:
    """What of the characters of an answer is not muted."""
    at, end = answer
    pieces = []
    for start, stop in muted:
        pieces.append(text[at:start])
        at = stop
    return "".join([*pieces, text[at:end]])
