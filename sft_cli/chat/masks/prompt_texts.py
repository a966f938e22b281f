"""Train on prompt texts as well as answers: tool results, and user texts with ``data.train_on=contents``.

Each text is trained once, in the first rendering that shows it: that of the next trained turn. As in no_loss_spans.py,
its position is not searched for. The prompt is rendered a second time with sentinels around the texts; the original
text must be between them, and without them the rendering must be unchanged.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sft_cli.chat.masks.rendered_text import RenderedText
from sft_cli.chat.masks.sentinels import RANGE_END, RANGE_SENTINELS, RANGE_START, find_ranges, mark_ranges
from sft_cli.chat.template.chat_template import RenderError
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Message

Render = Callable[[list[dict[str, Any]]], str]
Range = tuple[int, int]
_BETWEEN = re.compile(f"{RANGE_START}(.*?){RANGE_END}", re.DOTALL)
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class PromptTextKind:
    """A kind of prompt text that is trained.

    Attributes:
        role: The role of the messages.
        plural: The name of such texts in error messages.
        singular: The name of one such text in error messages.
        key: The setting that trains them.
        has_stop_token: Whether the stop token with which the template closes such a text is trained as well.
        no_loss_patterns: Patterns of text that carries no loss.
    """

    role: str
    plural: str
    singular: str
    key: str
    has_stop_token: bool = False
    no_loss_patterns: tuple[re.Pattern[str], ...] = ()

    def trained_ranges(self, text: str, bounds: Range) -> list[Range]:
        """Return the character ranges within the bounds that no pattern matches."""
        kept, done = [], bounds[0]
        for start, end in sorted(match.span() for pattern in self.no_loss_patterns for match in pattern.finditer(text)):
            kept.append((done, min(start, bounds[1])))
            done = max(done, end)
        return [(start, end) for start, end in [*kept, (done, bounds[1])] if start < end]


def trained_prompt_texts(data: DataConfig) -> tuple[PromptTextKind, ...]:
    """Return the kinds of prompt texts that a data config trains."""
    kinds = []
    if data.train_on is TrainOn.contents:
        patterns = tuple(re.compile(pattern) for pattern in data.no_loss_patterns)
        kinds.append(
            PromptTextKind(
                "user",
                "user texts",
                "user text",
                "data.train_on=contents",
                has_stop_token=True,
                no_loss_patterns=patterns,
            )
        )
    if data.train_on_tool_results:
        key = "data.train_on_tool_results"
        kinds.append(PromptTextKind("tool", "tool results", "tool result", key))
    return tuple(kinds)


def add_prompt_ranges(
    turns: Sequence[tuple[int, RenderedText]],
    messages: Sequence[Message],
    marked: Sequence[dict[str, Any]],
    render: Render,
    kinds: Sequence[PromptTextKind],
) -> list[tuple[int, RenderedText]]:
    """Add the ranges of trained prompt texts to the turn that shows them first.

    Args:
        turns: Index and text, up to and including it, of each trained turn, in order.
        messages: The messages.
        marked: The messages as the template reads them, with marks.
        render: Renders the prompt that a server sends after messages.
        kinds: The kinds of texts that are trained.

    Raises:
        RenderError: The rendering does not show a text literally, or no turn shows it.
    """
    turns_with_ranges, previous, stops = [], 0, {turn.stop_tokens[0] for _, turn in turns}
    name = " or ".join(kind.singular for kind in kinds)
    for i, turn in turns:
        prompt = turn.text[: turn.spans[0].start]
        ranges: list[Range] = []
        for kind in kinds:
            if new := _trained(kind, messages, previous, i):
                ranges += _ranges(kind, new, messages, list(marked[:i]), prompt, render, stops)
        turns_with_ranges.append((i, replace(turn, prompt_ranges=tuple(sorted(ranges)), prompt_text_name=name)))
        previous = i
    for kind in kinds:
        if unused := _trained(kind, messages, previous, len(messages)):
            raise RenderError(
                f"message {unused[0] + 1} ({kind.role}) comes after the last answer that carries loss: no example shows"
                f" this {kind.singular.split()[-1]} ({kind.key})"
            )
    return turns_with_ranges


def _trained(kind: PromptTextKind, messages: Sequence[Message], start: int, end: int) -> list[int]:
    """Return the indices of non-empty messages of a kind from ``start`` to ``end`` that carry loss."""
    return [
        j
        for j in range(start, end)
        if messages[j].role == kind.role
        and messages[j].weight > 0
        and any(
            messages[j].content[a:b].strip()
            for a, b in kind.trained_ranges(messages[j].content, _core(messages[j].content))
        )
    ]


def _ranges(
    kind: PromptTextKind,
    indices: list[int],
    source_messages: Sequence[Message],
    messages: list[dict[str, Any]],
    prompt: str,
    render: Render,
    stops: set[str],
) -> list[Range]:
    """Return the ranges of texts in a prompt, without the white space at their ends if the template strips it."""
    for bounds in (_whole, _core):
        pieces = {
            j: kind.trained_ranges(source_messages[j].content, bounds(source_messages[j].content)) for j in indices
        }
        wrapped = {j: mark_ranges(messages[j]["content"], pieces[j]) for j in indices}
        try:
            rendered = render(
                [{**message, "content": wrapped.get(j, message["content"])} for j, message in enumerate(messages)]
            )
        except RenderError:  # the template parses the text instead of writing it unchanged
            continue
        ranges = find_ranges(rendered)
        expected = [text for message in wrapped.values() for text in _BETWEEN.findall(message)]
        if RANGE_SENTINELS.sub("", rendered) == prompt and [prompt[start:end] for start, end in ranges] == expected:
            return [
                *ranges,
                *(_closing_stop_tokens(wrapped, bounds, ranges, prompt, stops) if kind.has_stop_token else ()),
            ]
    also = " and what data.no_loss_patterns matches in them" if kind.no_loss_patterns else ""
    raise RenderError(
        f"the template does not write the {kind.plural}{also} unchanged and in order (it escapes, cuts,"
        f" merges, moves or repeats them), so that {kind.key}{'' if '=' in kind.key else '=true'} cannot train them"
    )


def _closing_stop_tokens(
    wrapped: dict[int, str], bounds: Callable[[str], Range], found: Sequence[Range], prompt: str, stops: set[str]
) -> list[Range]:
    """Return the ranges of the stop tokens with which the template closes texts, without white space before them."""
    stop_ranges, last_range = [], -1
    for text in wrapped.values():
        last_range += text.count(RANGE_START)
        after = text.rpartition(RANGE_END)[2]
        after = after.rstrip() if bounds is _core else after
        end = found[last_range][1]
        if not prompt.startswith(after, end):
            continue
        space = _SPACE.match(prompt, end + len(after))
        assert space is not None
        stop_ranges += [
            (space.end(), space.end() + len(stop)) for stop in stops if prompt.startswith(stop, space.end())
        ]
    return stop_ranges


def _whole(content: str) -> Range:
    return 0, len(content)


def _core(content: str) -> Range:
    """Return the range without the white space at the ends."""
    return len(content) - len(content.lstrip()), len(content.rstrip())
