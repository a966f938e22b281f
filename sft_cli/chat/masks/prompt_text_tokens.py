"""Find the tokens of trained prompt texts (tool results, user texts) that contain no text of the template.

The model never generates such a text, so its ids are not encoded separately: they are those of the whole text. A token
that crosses an edge of the text (`}` with the newline after it) also contains template text, and is left out. The other
tokens are verified to decode to the characters of the text.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from functools import partial

from sft_cli.chat.masks.rendered_text import RenderedText
from sft_cli.chat.masks.sentinels import MARK_START, strip_marks
from sft_cli.chat.tokens.token_text import TokenTextReader
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.utils.text import any_of

Range = tuple[int, int]


class PromptTextTokens:
    """Find the tokens of trained prompt texts with one tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer, reads: TokenTextReader) -> None:
        self._reader = reads
        self._control = re.compile(any_of(tokenizer.control_tokens))
        self._control_ids = frozenset(tokenizer.control_tokens.values())

    def find(self, rendered: RenderedText, input_ids: list[int], spans: list[Range]) -> list[Range] | str:
        """Find the tokens of each trained prompt text.

        Args:
            rendered: The rendered text.
            input_ids: ``(length,)`` its ids.
            spans: The token ranges of its spans.

        Returns:
            Index ranges of ``input_ids``, one for each prompt range and empty where it has no separate token; or the
            text that cannot be separated.
        """
        starts, found = [span.start for span in rendered.spans], []
        for start, end in rendered.prompt_ranges:
            at = bisect_right(starts, start)  # the span after it
            gap_start, gap_end = rendered.spans[at - 1].end if at else 0, starts[at]
            first, last = spans[at - 1][1] if at else 0, spans[at][0]
            range_of_text = None
            if gap_start <= start and end <= gap_end:
                range_of_text = self._find_one(
                    rendered.text[gap_start:gap_end], (start - gap_start, end - gap_start), input_ids[first:last], first
                )
            if range_of_text is None:
                return strip_marks(rendered.text[start:end])
            found.append((first + range_of_text[0], first + range_of_text[1]))
        return found

    def _find_one(self, text: str, text_range: Range, ids: list[int], first: int) -> Range | None:
        """Return the tokens inside ``text_range`` of a text between answers; None if they cannot be separated.

        Only the text between the two nearest control tokens matters: a normalizer does not look beyond them.
        """
        matches = [match.span() for match in self._control.finditer(text)]
        control_ranges = [(start, end) for start, end in matches if text[start - 1 : start] != MARK_START]
        controls = [i for i, id in enumerate(ids) if id in self._control_ids]
        if (
            len(control_ranges) == len(controls) and text_range in control_ranges
        ):  # the stop token that closes the text of a user
            at = controls[control_ranges.index(text_range)]
            return at, at + 1
        if len(control_ranges) != len(controls) or any(
            a < text_range[1] and text_range[0] < b for a, b in control_ranges
        ):
            return None
        before = sum(end <= text_range[0] for _, end in control_ranges)
        edges = (
            [0, *(end for _, end in control_ranges)][before],
            [*(start for start, _ in control_ranges), len(text)][before],
        )
        low, high = [-1, *controls][before] + 1, [*controls, len(ids)][before]
        pieces = [strip_marks(text[a:b]) for a, b in itertools.pairwise((edges[0], *text_range, edges[1]))]
        inside = self._inside(ids[low:high], first + low > 0, *pieces)
        return (low + inside[0], low + inside[1]) if inside else None

    def _inside(self, ids: list[int], follows_text: bool, before: str, middle: str, after: str) -> Range | None:
        """Return the tokens entirely inside ``middle``; None if the ids do not decode to the three parts."""
        plain_range = len(before), len(before) + len(middle)
        text = before + middle + after
        spelled = self._reader.decodes_to(ids, text, exactly=True)
        if spelled:
            return self._by_bytes(ids, text, *plain_range)
        normalized, normalized_range = self._reader.normalize(text), self._normalized_range(before, middle, after)
        if normalized_range and self._reader.decodes_to(ids, normalized, exactly=True):
            return self._by_bytes(ids, normalized, *normalized_range)
        decoded = self._reader.decode([(ids, follows_text)])[0]
        text_range = plain_range if decoded == text else normalized_range if decoded == normalized else None
        return self._by_decoding(ids, follows_text, decoded, *text_range) if text_range else None

    def _normalized_range(self, before: str, middle: str, after: str) -> Range | None:
        """Return the range of the middle in the normalized text; None if normalization merges it with other text."""

        def normalized_after_text(text: str) -> str:
            return self._reader.normalize("\n" + text).removeprefix(self._reader.normalize("\n"))

        text, inner, tail = (
            self._reader.normalize(before + middle + after),
            normalized_after_text(middle),
            normalized_after_text(after),
        )
        start = len(text) - len(inner) - len(tail)
        head = self._reader.normalize(before) if before else text[: max(0, start)]
        return (start, start + len(inner)) if head + inner + tail == text else None

    def _by_bytes(self, ids: list[int], text: str, start: int, end: int) -> Range:
        """Return the tokens inside characters ``start`` to ``end`` of the text of the ids, only whole characters."""
        assert self._reader.token_bytes is not None
        data, byte_ends = text.encode(), [0]
        for id in ids:
            byte_ends.append(byte_ends[-1] + len(self._reader.token_bytes[id]))
        first = bisect_left(byte_ends, len(text[:start].encode()))
        until = bisect_right(byte_ends, len(text[:end].encode())) - 1
        while first < until and _is_inside_character(data, byte_ends[first]):
            first += 1
        while first < until and _is_inside_character(data, byte_ends[until]):
            until -= 1
        return first, max(first, until)

    def _by_decoding(self, ids: list[int], follows_text: bool, decoded: str, start: int, end: int) -> Range | None:
        """Find the tokens like ``_by_bytes``, by decoding prefixes; None if the parts of the ids decode differently."""
        reach = partial(self._reader.prefix_length, ids, follows_text)
        first = bisect_left(range(len(ids) + 1), start, key=reach)
        until = max(first, bisect_right(range(len(ids) + 1), end, key=reach) - 1)
        a, b = reach(first), reach(until)
        parts = self._reader.decode(
            [(ids[:first], follows_text), (ids[first:until], follows_text or first > 0), (ids[until:], True)]
        )
        return (first, until) if parts == [decoded[:a], decoded[a:b], decoded[b:]] and start <= a and b <= end else None


def _is_inside_character(data: bytes, at: int) -> bool:
    """Return whether a position is inside a UTF-8 character."""
    return at < len(data) and data[at] & 0xC0 == 0x80
