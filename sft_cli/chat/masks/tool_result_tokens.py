"""The tokens of a text that trains beside the answers: those that hold its characters and nothing of the template's.

A server never generates such a text (a tool result, a question), so that no cut of the ids is made at its edges: the
ids are those of the whole text.
A token that reaches over an edge (`}` and the newline behind it) also holds what the template wrote, and is left out.
What the others say is proven to be the text's own characters: all but those that such a token holds.
"""

import itertools
import re
from bisect import bisect_left, bisect_right

from sft_cli.chat.masks.rendered_text import Rendered
from sft_cli.chat.masks.sentinels import MARK_START, unmarked
from sft_cli.chat.tokens.token_text import Reads
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.utils.text import any_of

Range = tuple[int, int]


class OwnTokens:
    """Finds the tokens of results with one tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer, reads: Reads) -> None:
        self._reads = reads
        self._control = re.compile(any_of(tokenizer.control))
        self._control_ids = frozenset(tokenizer.control.values())

    def ranges(self, rendered: Rendered, input_ids: list[int], spans: list[Range]) -> list[Range] | str:
        """The tokens of each result of a text.

        Args:
            rendered: The text.
            input_ids: ``(length,)`` its ids.
            spans: The ids of its spans.

        Returns:
            Index ranges of ``input_ids``, one for each result and empty where it has no token of its own; or what of a
            result cannot be told apart.
        """
        starts, found = [span.start for span in rendered.spans], []
        for start, end in rendered.results:
            at = bisect_right(starts, start)  # the span behind it
            front, back = rendered.spans[at - 1].end if at else 0, starts[at]
            first, last = spans[at - 1][1] if at else 0, spans[at][0]
            own = None
            if front <= start and end <= back:
                own = self._own(rendered.text[front:back], (start - front, end - front), input_ids[first:last], first)
            if own is None:
                return unmarked(rendered.text[start:end])
            found.append((first + own[0], first + own[1]))
        return found

    def _own(self, text: str, place: Range, ids: list[int], first: int) -> Range | None:
        """The tokens inside ``place`` of a text between answers; None if what they say is not known.

        Only what stands between the nearest two control tokens is looked at: a normaliser sees nothing beyond those.
        """
        matches = [one.span() for one in self._control.finditer(text)]
        written = [(start, end) for start, end in matches if text[start - 1 : start] != MARK_START]
        controls = [i for i, id in enumerate(ids) if id in self._control_ids]
        if len(written) == len(controls) and place in written:  # the stop token that closes the text of a user
            at = controls[written.index(place)]
            return at, at + 1
        if len(written) != len(controls) or any(a < place[1] and place[0] < b for a, b in written):
            return None
        before = sum(end <= place[0] for _, end in written)
        edges = [0, *(end for _, end in written)][before], [*(start for start, _ in written), len(text)][before]
        low, high = [-1, *controls][before] + 1, [*controls, len(ids)][before]
        pieces = [unmarked(text[a:b]) for a, b in itertools.pairwise((edges[0], *place, edges[1]))]
        own = self._inside(ids[low:high], first + low > 0, *pieces)
        return (low + own[0], low + own[1]) if own else None

    def _inside(self, ids: list[int], behind: bool, before: str, middle: str, after: str) -> Range | None:
        """The tokens wholly inside the middle of what ids say; None if they do not say the three."""
        plain = len(before), len(before) + len(middle)
        text = before + middle + after
        spelled = self._reads.spells(ids, text, exactly=True)
        if spelled:
            return self._by_bytes(ids, text, *plain)
        canonical, normal = self._reads.canonical(text), self._canonical_place(before, middle, after)
        if normal and self._reads.spells(ids, canonical, exactly=True):
            return self._by_bytes(ids, canonical, *normal)
        said = self._reads.texts([(ids, behind)])[0]
        place = plain if said == text else normal if said == canonical else None
        return self._by_decoding(ids, behind, said, *place) if place else None

    def _canonical_place(self, before: str, middle: str, after: str) -> Range | None:
        """Where the middle lies in the canonical text; None where normalising joins it with what is beside it."""

        def behind(text: str) -> str:
            return self._reads.canonical("\n" + text).removeprefix(self._reads.canonical("\n"))

        text, inner, tail = self._reads.canonical(before + middle + after), behind(middle), behind(after)
        start = len(text) - len(inner) - len(tail)
        head = self._reads.canonical(before) if before else text[: max(0, start)]
        return (start, start + len(inner)) if head + inner + tail == text else None

    def _by_bytes(self, ids: list[int], text: str, start: int, end: int) -> Range:
        """The tokens inside characters ``start`` to ``end`` of the text that ids spell, whole characters only."""
        assert self._reads.bytes is not None
        data, reach = text.encode(), [0]
        for id in ids:
            reach.append(reach[-1] + len(self._reads.bytes[id]))
        first = bisect_left(reach, len(text[:start].encode()))
        until = bisect_right(reach, len(text[:end].encode())) - 1
        while first < until and _cuts(data, reach[first]):
            first += 1
        while first < until and _cuts(data, reach[until]):
            until -= 1
        return first, max(first, until)

    def _by_decoding(self, ids: list[int], behind: bool, said: str, start: int, end: int) -> Range | None:
        """The tokens inside characters ``start`` to ``end`` of what ids say; None if parts do not say parts of it."""

        def reach(count: int) -> int:
            # The bytes of a character that is not complete yet are read as U+FFFD.
            return len(self._reads.texts([(ids[:count], behind)])[0].rstrip("\ufffd"))

        first = bisect_left(range(len(ids) + 1), start, key=reach)
        until = max(first, bisect_right(range(len(ids) + 1), end, key=reach) - 1)
        a, b = reach(first), reach(until)
        parts = self._reads.texts([(ids[:first], behind), (ids[first:until], behind or first > 0), (ids[until:], True)])
        return (first, until) if parts == [said[:a], said[a:b], said[b:]] and start <= a and b <= end else None


def _cuts(data: bytes, at: int) -> bool:
    """Whether a place lies inside a character of UTF-8."""
    return at < len(data) and data[at] & 0xC0 == 0x80
