"""A rendered text and its trained character ranges."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainedSpan:
    """Characters ``start`` to ``end`` of a rendered text, trained with ``weight``."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class RenderedText:
    """A text and its trained spans, in order; the last span ends the text.

    Attributes:
        text: The text.
        spans: The trained answers, each with its stop token.
        stop_tokens: The stop token that ends each span.
        no_loss: Character ranges inside spans that carry no loss, in order and disjoint.
        prompt_ranges: Trained character ranges outside spans, before the last one: tool results or user texts, and the
            stop tokens that close them. In order and disjoint.
        remarks: Keys of data/remarks.py.
        prompt_text_name: The name of a text of ``prompt_ranges`` in error messages.
    """

    text: str
    spans: tuple[TrainedSpan, ...]
    stop_tokens: tuple[str, ...]
    no_loss: tuple[tuple[int, int], ...] = ()
    prompt_ranges: tuple[tuple[int, int], ...] = ()
    remarks: frozenset[str] = frozenset()
    prompt_text_name: str = "tool result"


def merge_turns(turns: Sequence[RenderedText]) -> RenderedText:
    """Merge turns into one rendering; each earlier text must be a prefix of the last one."""
    last = turns[-1]
    assert all(last.text.startswith(turn.text) for turn in turns), "a rewritten history is unrolled"
    no_loss = tuple(text_range for turn in turns for text_range in turn.no_loss)
    spans, stops = tuple(turn.spans[0] for turn in turns), tuple(turn.stop_tokens[0] for turn in turns)
    prompt_ranges = tuple(text_range for turn in turns for text_range in turn.prompt_ranges)
    remarks = frozenset(key for turn in turns for key in turn.remarks)
    return RenderedText(last.text, spans, stops, no_loss, prompt_ranges, remarks, last.prompt_text_name)


def text_outside(text: str, answer: tuple[int, int], no_loss: Sequence[tuple[int, int]]) -> str:
    """Return the characters of an answer outside its no-loss ranges."""
    done, end = answer
    pieces = []
    for start, stop in no_loss:
        pieces.append(text[done:start])
        done = stop
    return "".join([*pieces, text[done:end]])
