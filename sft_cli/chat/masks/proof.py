"""The proof of a mask: trained ids say the trained text, control tokens are the template's, answers end in their stop.

Where a token's bytes are known (chat/tokens/token_bytes.py) the trained ids are compared with the text by joining
bytes; all else is decoded by the tokenizer, many answers at a time. Both are linear in the length of a text.
Tool results that are trained, too, are proven by chat/masks/tool_result_tokens.py.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sft_cli.chat.masks.sentinels import MARK_END, MARK_START
from sft_cli.chat.masks.spans import Rendered
from sft_cli.chat.masks.tool_result_tokens import OwnTokens
from sft_cli.chat.tokens.token_text import Reads
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.utils.text import any_of, common_prefix_length

LITERAL = re.compile(f"{MARK_START}([^{MARK_END}]*){MARK_END}|[{MARK_START}{MARK_END}]")
"""A special-token string that is ordinary text; a lone mark."""


class Unproven(Exception):
    """The mask of a text cannot be proven; the message says what differs."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and index ranges ``(start, end)`` of them.

    Attributes:
        input_ids: ``(length,)`` token ids.
        spans: The trained ranges, one for each span of the text.
        muted: Ranges inside spans that are not trained, one for each of the text's; a token that is muted in part only
            is in the range.
        results: Ranges outside spans that are trained, one for each tool result of the text: the tokens that hold
            nothing else.
    """

    input_ids: list[int]
    spans: list[tuple[int, int]]
    muted: list[tuple[int, int]] = field(default_factory=list)
    results: list[tuple[int, int]] = field(default_factory=list)


Result = Encoded | Unproven | None


class Proof:
    """Proves ids with one tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._reads = Reads(tokenizer)
        self._own = OwnTokens(tokenizer, self._reads)
        self._control = re.compile(any_of(tokenizer.control))
        self._control_ids = frozenset(tokenizer.control.values())

    def results(
        self, batch: Sequence[Rendered], drafts: Sequence[Encoded | None], counted: bool = False
    ) -> list[Result]:
        """Each draft if it is right, muted tokens and tool results found; else what is wrong; None for no draft.

        Args:
            batch: The texts.
            drafts: Their ids.
            counted: Whether the control tokens were compared when the ids were made.
        """
        wrong = self._wrongly_said(batch, drafts)
        results: list[Result] = []
        for i, (rendered, draft) in enumerate(zip(batch, drafts, strict=True)):
            if draft is None:
                results.append(None)
                continue
            fault = wrong.get(i) or (None if counted else self._extra_control(rendered, draft))
            if fault := fault or self._unstopped(rendered, draft):
                results.append(Unproven(fault))
            else:
                results.append(self._complete(rendered, draft))
        return results

    def _complete(self, rendered: Rendered, draft: Encoded) -> Encoded | Unproven:
        """The draft with the tokens of what is muted and of tool results."""
        if rendered.results:
            own = self._own.ranges(rendered, draft.input_ids, draft.spans)
            if isinstance(own, str):
                return Unproven(f"the {rendered.beside} {own[:80]!r} cannot be told apart in its ids")
            draft = replace(draft, results=own)
        return self._with_muted(rendered, draft) if rendered.muted else draft

    def _wrongly_said(self, batch: Sequence[Rendered], drafts: Sequence[Encoded | None]) -> dict[int, str]:
        """For each draft whose trained ids do not say the trained text: its number, and what they say instead."""
        numbers, wanted, ranges = [], [], []
        for i, (rendered, draft) in enumerate(zip(batch, drafts, strict=True)):
            if draft is None:
                continue
            for (start, end), text in zip(draft.spans, wanted_texts(rendered), strict=True):
                ids = draft.input_ids[start:end]
                if not self._reads.spells(ids, text):
                    numbers.append(i)
                    wanted.append(text)
                    ranges.append((ids, start > 0))
        wrong: dict[int, str] = {}
        for i, text, said in zip(numbers, wanted, self._reads.texts(ranges), strict=True):
            if said != text and said != self._tokenizer.canonical(text):
                wrong.setdefault(i, f"the trained ids decode to {said[:80]!r}, not to {text[:80]!r}")
        return wrong

    def _extra_control(self, rendered: Rendered, encoded: Encoded) -> str | None:
        """That the ids hold other control tokens than the template wrote."""
        control = self._tokenizer.control
        written = [control[name] for name in self._control.findall(LITERAL.sub("\0", rendered.text))]
        if [id for id in encoded.input_ids if id in self._control_ids] != written:
            return "its control tokens are not exactly those the template wrote"
        return None

    def _unstopped(self, rendered: Rendered, encoded: Encoded) -> str | None:
        """That an answer does not end in its stop token."""
        for (start, end), stop in zip(encoded.spans, rendered.stops, strict=True):
            if start == end or encoded.input_ids[end - 1] != self._tokenizer.control[stop]:
                return f"an answer does not end in its stop token {stop!r}"
        return None

    def _with_muted(self, rendered: Rendered, encoded: Encoded) -> Encoded | Unproven:
        """With the token range of each muted range of characters."""
        found = []
        for start, end in rendered.muted:
            at = bisect_right([span.start for span in rendered.spans], start) - 1
            span, (first, last) = rendered.spans[at], encoded.spans[at]
            assert span.start <= start <= end <= span.end, "a muted range lies inside one span"
            cuts = itertools.pairwise((span.start, start, end, span.end))
            before, middle, after = (unmarked(rendered.text[a:b]) for a, b in cuts)
            tokens = self._overlapping(encoded.input_ids[first:last], first > 0, before, middle, after)
            if tokens is None:
                return Unproven(f"what must not train, {middle[:80]!r}, cannot be told apart in its ids")
            found.append((first + tokens[0], first + tokens[1]))
        return replace(encoded, muted=found)

    def _overlapping(
        self, ids: list[int], behind: bool, before: str, middle: str, after: str
    ) -> tuple[int, int] | None:
        """The tokens of an answer that overlap its middle; None if what the others say is not before or after it."""
        text, start = before + middle + after, len(before)
        end = start + len(middle)
        canonical = self._tokenizer.canonical(text)
        if self._reads.spells(ids, text, exactly=True):
            return self._by_bytes(ids, text, start, end)
        if self._reads.spells(ids, canonical, exactly=True):
            return self._by_bytes(ids, canonical, *self._in_canonical(before, after, canonical))
        said = self._reads.texts([(ids, behind)])[0]
        if said != text:
            start, end = self._in_canonical(before, after, said)

        def reach(count: int) -> int:
            # The bytes of a character that is not complete yet are read as U+FFFD.
            return len(self._reads.texts([(ids[:count], behind)])[0].rstrip("\ufffd"))

        first, until = _between(range(len(ids) + 1), start, end, reach)
        front, back = self._reads.texts([(ids[:first], behind), (ids[until:], True)])
        return (first, until) if said[:start].startswith(front) and said[end:].endswith(back) else None

    def _by_bytes(self, ids: list[int], text: str, start: int, end: int) -> tuple[int, int]:
        """The tokens that overlap characters ``start`` to ``end`` of the text that they spell."""
        assert self._reads.bytes is not None
        reach = list(itertools.accumulate((len(self._reads.bytes[id]) for id in ids), initial=0))
        return _between(range(len(ids) + 1), len(text[:start].encode()), len(text[:end].encode()), reach.__getitem__)

    def _in_canonical(self, before: str, after: str, text: str) -> tuple[int, int]:
        """Where the middle lies in the canonical text: all that is not plainly from before it or from behind it."""
        canonical = self._tokenizer.canonical
        start = common_prefix_length(canonical(before), text)
        behind = canonical("\n" + after).removeprefix(canonical("\n"))
        same = common_prefix_length(behind[::-1], text[start:][::-1])
        return start, len(text) - same


def wanted_texts(rendered: Rendered) -> list[str]:
    """What each span says, without marks."""
    return [unmarked(rendered.text[span.start : span.end]) for span in rendered.spans]


def unmarked(text: str) -> str:
    """The text without marks."""
    return LITERAL.sub(r"\1", text) if MARK_START in text or MARK_END in text else text


def _between(counts: range, start: int, end: int, reach: Callable[[int], int]) -> tuple[int, int]:
    """The tokens that overlap ``start`` to ``end``, where the first ``count`` of them reach up to ``reach(count)``."""
    first = bisect_right(counts, start, key=reach) - 1
    first = bisect_left(counts, reach(first), key=reach)
    return (first, max(first, bisect_left(counts, end, key=reach))) if start < end else (first, first)
