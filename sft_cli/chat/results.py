"""What tools answered, where it trains beside the answers: the characters of each result in the rendered text.

Each result trains once, in the first text that shows it: in that of the next trained turn. As in chat/mute.py its place
is not searched for, it is seen: the prompt is rendered once more with reserved characters around the results, between
them must stand what the tool answered, and without them the text must be the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sft_cli.chat.marks import MUTE_END, MUTE_START, SIGNS, muted, places
from sft_cli.chat.rendered import Rendered
from sft_cli.chat.template import TemplateRefusal
from sft_cli.data.types import Message

Render = Callable[[list[dict[str, Any]]], str]


def with_results(
    turns: Sequence[tuple[int, Rendered]], said: Sequence[Message], marked: Sequence[dict[str, Any]], render: Render
) -> list[tuple[int, Rendered]]:
    """The trained turns with the places of the tool results that they are the first to show.

    Args:
        turns: Index and text, up to and with it, of each trained turn, in order.
        said: The messages.
        marked: The same as the template reads them, their special-token strings marked.
        render: Makes the prompt that a server sends behind messages.

    Raises:
        TemplateRefusal: A result does not stand in the text as the tool gave it, or no turn shows it.
    """
    found, before = [], 0
    for i, turn in turns:
        new = _trained(said, before, i)
        prompt = turn.text[: turn.spans[0].start]
        found.append((i, replace(turn, results=_ranges(new, said, list(marked[:i]), prompt, render)) if new else turn))
        before = i
    if late := _trained(said, before, len(said)):
        raise TemplateRefusal(
            f"message {late[0] + 1} (tool) comes after the last answer that carries loss: no example shows this result"
            " (data.train_on_tool_results)"
        )
    return found


def _trained(said: Sequence[Message], start: int, end: int) -> list[int]:
    """Indices of the tool results from ``start`` to ``end`` that carry loss and say something."""
    return [j for j in range(start, end) if said[j].role == "tool" and said[j].weight > 0 and said[j].content.strip()]


def _ranges(
    new: list[int], said: Sequence[Message], messages: list[dict[str, Any]], prompt: str, render: Render
) -> tuple[tuple[int, int], ...]:
    """Where results stand in a prompt: whole, or without the white space at their edges where the template trims it."""
    for edges in (_whole, _core):
        signed = {j: muted(messages[j]["content"], [edges(said[j].content)]) for j in new}
        try:
            shown = render([{**one, "content": signed.get(j, one["content"])} for j, one in enumerate(messages)])
        except TemplateRefusal:  # it reads what is in a result: it does not write it as it is
            continue
        found = places(shown)
        between = [text.partition(MUTE_START)[2].partition(MUTE_END)[0] for text in signed.values()]
        if SIGNS.sub("", shown) == prompt and [prompt[start:end] for start, end in found] == between:
            return tuple(found)
    raise TemplateRefusal(
        "the template does not write the tool results as they are, one after the other (it escapes, cuts, merges, moves"
        " or repeats them), so that data.train_on_tool_results=true cannot train them"
    )


def _whole(content: str) -> tuple[int, int]:
    return 0, len(content)


def _core(content: str) -> tuple[int, int]:
    """All but the white space at the edges."""
    return len(content) - len(content.lstrip()), len(content.rstrip())
