"""What trains beside the answers: tool results, and with ``data.train_on=contents`` the texts of users.

Each text trains once, in the first rendering that shows it: in that of the next trained turn. As in untrained_spans.py
its place is not searched for, it is seen: the prompt is rendered once more with reserved characters around the texts,
between them must stand what was said, and without them the rendering must be the same.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sft_cli.chat.masks.rendered_text import Rendered
from sft_cli.chat.masks.sentinels import MUTE_END, MUTE_START, SIGNS, muted, places
from sft_cli.chat.template.chat_template import TemplateRefusal
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Message

Render = Callable[[list[dict[str, Any]]], str]
Range = tuple[int, int]
_BETWEEN = re.compile(f"{MUTE_START}(.*?){MUTE_END}", re.DOTALL)
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Beside:
    """Which messages train beside the answers.

    Attributes:
        role: Theirs.
        what: What refusals call them.
        one: What refusals call one of them.
        key: The setting that trains them.
        stopped: Whether a stop token that the template closes them with trains, too.
        untrained: What these match in them carries no loss.
    """

    role: str
    what: str
    one: str
    key: str
    stopped: bool = False
    untrained: tuple[re.Pattern[str], ...] = ()

    def kept(self, text: str, edges: Range) -> list[Range]:
        """The characters between the edges that nothing untrained matches, in pieces."""
        kept, at = [], edges[0]
        for start, end in sorted(match.span() for pattern in self.untrained for match in pattern.finditer(text)):
            kept.append((at, min(start, edges[1])))
            at = max(at, end)
        return [(start, end) for start, end in [*kept, (at, edges[1])] if start < end]


def beside(data: DataConfig) -> tuple[Beside, ...]:
    """What trains beside the answers by a set of rules."""
    found = []
    if data.train_on is TrainOn.contents:
        patterns = tuple(re.compile(pattern) for pattern in data.no_loss_patterns)
        found.append(
            Beside("user", "user texts", "user text", "data.train_on=contents", stopped=True, no_loss_patterns=patterns)
        )
    if data.train_on_tool_results:
        key = "data.train_on_tool_results"
        found.append(Beside("tool", "tool results", "tool result", key))
    return tuple(found)


def with_results(
    turns: Sequence[tuple[int, Rendered]],
    said: Sequence[Message],
    marked: Sequence[dict[str, Any]],
    render: Render,
    kinds: Sequence[Beside],
) -> list[tuple[int, Rendered]]:
    """The trained turns with the places of what trains beside them and is shown by them first.

    Args:
        turns: Index and text, up to and with it, of each trained turn, in order.
        said: The messages.
        marked: The same as the template reads them, their special-token strings marked.
        render: Makes the prompt that a server sends behind messages.
        kinds: Which messages train.

    Raises:
        TemplateRefusal: A text does not stand in the rendering as it was said, or no turn shows it.
    """
    found, before, stops = [], 0, {turn.stops[0] for _, turn in turns}
    name = " or ".join(kind.one for kind in kinds)
    for i, turn in turns:
        prompt = turn.text[: turn.spans[0].start]
        ranges: list[Range] = []
        for kind in kinds:
            if new := _trained(kind, said, before, i):
                ranges += _ranges(kind, new, said, list(marked[:i]), prompt, render, stops)
        found.append((i, replace(turn, results=tuple(sorted(ranges)), beside=name)))
        before = i
    for kind in kinds:
        if late := _trained(kind, said, before, len(said)):
            raise TemplateRefusal(
                f"message {late[0] + 1} ({kind.role}) comes after the last answer that carries loss: no example shows"
                f" this {kind.one.split()[-1]} ({kind.key})"
            )
    return found


def _trained(kind: Beside, said: Sequence[Message], start: int, end: int) -> list[int]:
    """Indices of the messages of a kind from ``start`` to ``end`` that carry loss and say something."""
    return [
        j
        for j in range(start, end)
        if said[j].role == kind.role
        and said[j].weight > 0
        and any(said[j].content[a:b].strip() for a, b in kind.kept(said[j].content, _core(said[j].content)))
    ]


def _ranges(
    kind: Beside,
    new: list[int],
    said: Sequence[Message],
    messages: list[dict[str, Any]],
    prompt: str,
    render: Render,
    stops: set[str],
) -> list[Range]:
    """Where texts stand in a prompt: whole, or without the white space at their edges where the template trims it."""
    for edges in (_whole, _core):
        pieces = {j: kind.kept(said[j].content, edges(said[j].content)) for j in new}
        signed = {j: muted(messages[j]["content"], pieces[j]) for j in new}
        try:
            shown = render([{**one, "content": signed.get(j, one["content"])} for j, one in enumerate(messages)])
        except TemplateRefusal:  # it reads what is in a text: it does not write it as it is
            continue
        found = places(shown)
        between = [text for one in signed.values() for text in _BETWEEN.findall(one)]
        if SIGNS.sub("", shown) == prompt and [prompt[start:end] for start, end in found] == between:
            return [*found, *(_stops(signed, edges, found, prompt, stops) if kind.stopped else ())]
    known = " and what data.no_loss_patterns matches in them" if kind.untrained else ""
    raise TemplateRefusal(
        f"the template does not write the {kind.what}{known} as they are, one after the other (it escapes, cuts,"
        f" merges, moves or repeats them), so that {kind.key}{'' if '=' in kind.key else '=true'} cannot train them"
    )


def _stops(
    signed: dict[int, str], edges: Callable[[str], Range], found: Sequence[Range], prompt: str, stops: set[str]
) -> list[Range]:
    """The stop tokens with which the template closes texts, white space before them left out."""
    closed, last = [], -1
    for text in signed.values():
        last += text.count(MUTE_START)
        behind = text.rpartition(MUTE_END)[2]
        behind = behind.rstrip() if edges is _core else behind
        end = found[last][1]
        if not prompt.startswith(behind, end):
            continue
        space = _SPACE.match(prompt, end + len(behind))
        assert space is not None
        closed += [(space.end(), space.end() + len(stop)) for stop in stops if prompt.startswith(stop, space.end())]
    return closed


def _whole(content: str) -> Range:
    return 0, len(content)


def _core(content: str) -> Range:
    """All but the white space at the edges."""
    return len(content) - len(content.lstrip()), len(content.rstrip())
