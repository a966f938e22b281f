"""Verify a loss mask: trained ids decode to the trained text, control tokens are the template's, answers end in a stop.

Where the bytes of tokens are known (chat/tokens/token_text.py), the trained ids are compared with the text by joining
bytes; otherwise the tokenizer decodes many answers at a time. Both take time linear in the length of the text.
Trained prompt texts (tool results, user texts) are verified in chat/masks/prompt_text_tokens.py.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sft_cli.chat.masks.prompt_text_tokens import PromptTextTokens
from sft_cli.chat.masks.rendered_text import RenderedText
from sft_cli.chat.masks.sentinels import MARK_END, MARK_START, strip_marks
from sft_cli.chat.tokens.token_text import TokenTextReader
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from sft_cli.utils.text import any_of, common_prefix_length

MARKED_LITERAL = re.compile(f"{MARK_START}([^{MARK_END}]*){MARK_END}|[{MARK_START}{MARK_END}]")
"""A special-token string that is ordinary text, between marks; or a single mark."""


class MaskNotProven(Exception):
    """The loss mask of a text cannot be proven; the message describes the difference."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Token ids and ranges ``(start, end)`` of them.

    Attributes:
        input_ids: ``(length,)`` token ids.
        spans: The trained ranges, one for each span of the text.
        no_loss: Ranges inside spans that carry no loss, one for each range of the text; tokens that it covers only in
            part are included.
        prompt_ranges: Trained ranges outside spans, one for each range of the text; tokens that it covers only in part
            are left out.
    """

    input_ids: list[int]
    spans: list[tuple[int, int]]
    no_loss: list[tuple[int, int]] = field(default_factory=list)
    prompt_ranges: list[tuple[int, int]] = field(default_factory=list)


Result = EncodedText | MaskNotProven | None


class MaskVerifier:
    """Verify ids with one tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._reader = TokenTextReader(tokenizer)
        self._prompt_text_tokens = PromptTextTokens(tokenizer, self._reader)
        self._control = re.compile(any_of(tokenizer.control_tokens))
        self._control_ids = frozenset(tokenizer.control_tokens.values())

    def verify(
        self, batch: Sequence[RenderedText], drafts: Sequence[EncodedText | None], control_checked: bool = False
    ) -> list[Result]:
        """Verify drafts, and find the tokens of their no-loss ranges and trained prompt texts.

        Args:
            batch: The texts.
            drafts: The ids of the texts.
            control_checked: Whether the control tokens were already compared by the encoder.

        Returns:
            For each draft: the completed draft, the error, or None for no draft.
        """
        errors = self._decoding_errors(batch, drafts)
        results: list[Result] = []
        for i, (rendered, draft) in enumerate(zip(batch, drafts, strict=True)):
            if draft is None:
                results.append(None)
                continue
            error = errors.get(i) or (None if control_checked else self._control_token_error(rendered, draft))
            if error := error or self._stop_token_error(rendered, draft):
                results.append(MaskNotProven(error))
            else:
                results.append(self._complete(rendered, draft))
        return results

    def _complete(self, rendered: RenderedText, draft: EncodedText) -> EncodedText | MaskNotProven:
        """Add the tokens of no-loss ranges and of trained prompt texts to a draft."""
        if rendered.prompt_ranges:
            ranges = self._prompt_text_tokens.find(rendered, draft.input_ids, draft.spans)
            if isinstance(ranges, str):
                return MaskNotProven(f"the {rendered.prompt_text_name} {ranges[:80]!r} cannot be separated in its ids")
            draft = replace(draft, prompt_ranges=ranges)
        return self._add_no_loss(rendered, draft) if rendered.no_loss else draft

    def _decoding_errors(self, batch: Sequence[RenderedText], drafts: Sequence[EncodedText | None]) -> dict[int, str]:
        """Return, by index, an error for each draft whose trained ids do not decode to the trained text."""
        numbers, expected, ranges = [], [], []
        for i, (rendered, draft) in enumerate(zip(batch, drafts, strict=True)):
            if draft is None:
                continue
            for (start, end), text in zip(draft.spans, expected_span_texts(rendered), strict=True):
                ids = draft.input_ids[start:end]
                if not self._reader.decodes_to(ids, text):
                    numbers.append(i)
                    expected.append(text)
                    ranges.append((ids, start > 0))
        errors: dict[int, str] = {}
        for i, text, decoded in zip(numbers, expected, self._reader.decode(ranges), strict=True):
            if decoded != text and decoded != self._tokenizer.normalize(text):
                errors.setdefault(i, f"the trained ids decode to {decoded[:80]!r}, not to {text[:80]!r}")
        return errors

    def _control_token_error(self, rendered: RenderedText, encoded: EncodedText) -> str | None:
        """Return an error if the ids contain control tokens that the template did not write."""
        control = self._tokenizer.control_tokens
        written = [control[name] for name in self._control.findall(MARKED_LITERAL.sub("\0", rendered.text))]
        if [id for id in encoded.input_ids if id in self._control_ids] != written:
            return "its control tokens are not exactly those the template wrote"
        return None

    def _stop_token_error(self, rendered: RenderedText, encoded: EncodedText) -> str | None:
        """Return an error if an answer does not end in its stop token."""
        for (start, end), stop in zip(encoded.spans, rendered.stop_tokens, strict=True):
            if start == end or encoded.input_ids[end - 1] != self._tokenizer.control_tokens[stop]:
                return f"an answer does not end in its stop token {stop!r}"
        return None

    def _add_no_loss(self, rendered: RenderedText, encoded: EncodedText) -> EncodedText | MaskNotProven:
        """Add the token range of each no-loss range of characters."""
        token_ranges = []
        for start, end in rendered.no_loss:
            at = bisect_right([span.start for span in rendered.spans], start) - 1
            span, (first, last) = rendered.spans[at], encoded.spans[at]
            assert span.start <= start <= end <= span.end, "a no-loss range is inside one span"
            cuts = itertools.pairwise((span.start, start, end, span.end))
            before, middle, after = (strip_marks(rendered.text[a:b]) for a, b in cuts)
            tokens = self._overlapping_tokens(encoded.input_ids[first:last], first > 0, before, middle, after)
            if tokens is None:
                return MaskNotProven(f"the part without loss, {middle[:80]!r}, cannot be separated in its ids")
            token_ranges.append((first + tokens[0], first + tokens[1]))
        return replace(encoded, no_loss=token_ranges)

    def _overlapping_tokens(
        self, ids: list[int], follows_text: bool, before: str, middle: str, after: str
    ) -> tuple[int, int] | None:
        """Return the range of tokens that overlap the middle of an answer; None if they cannot be separated."""
        text, start = before + middle + after, len(before)
        end = start + len(middle)
        normalized = self._tokenizer.normalize(text)
        if self._reader.decodes_to(ids, text, exactly=True):
            return self._by_bytes(ids, text, start, end)
        if self._reader.decodes_to(ids, normalized, exactly=True):
            return self._by_bytes(ids, normalized, *self._range_in_normalized(before, after, normalized))
        decoded = self._reader.decode([(ids, follows_text)])[0]
        if decoded != text:
            start, end = self._range_in_normalized(before, after, decoded)
        reach = partial(self._reader.prefix_length, ids, follows_text)
        first, until = _overlapping_range(range(len(ids) + 1), start, end, reach)
        front, back = self._reader.decode([(ids[:first], follows_text), (ids[until:], True)])
        return (first, until) if decoded[:start].startswith(front) and decoded[end:].endswith(back) else None

    def _by_bytes(self, ids: list[int], text: str, start: int, end: int) -> tuple[int, int]:
        """Return the range of tokens that overlap characters ``start`` to ``end`` of the text that they spell."""
        assert self._reader.token_bytes is not None
        byte_ends = list(itertools.accumulate((len(self._reader.token_bytes[id]) for id in ids), initial=0))
        return _overlapping_range(
            range(len(ids) + 1), len(text[:start].encode()), len(text[:end].encode()), byte_ends.__getitem__
        )

    def _range_in_normalized(self, before: str, after: str, text: str) -> tuple[int, int]:
        """Return the range of the middle in the normalized text: all that is not clearly before or after it."""
        normalize = self._tokenizer.normalize
        start = common_prefix_length(normalize(before), text)
        normalized_after = normalize("\n" + after).removeprefix(normalize("\n"))
        shared = common_prefix_length(normalized_after[::-1], text[start:][::-1])
        return start, len(text) - shared


def expected_span_texts(rendered: RenderedText) -> list[str]:
    """Return the text of each span, without marks."""
    return [strip_marks(rendered.text[span.start : span.end]) for span in rendered.spans]


def _overlapping_range(counts: range, start: int, end: int, end_of: Callable[[int], int]) -> tuple[int, int]:
    """Return the tokens that overlap ``start`` to ``end``; the first ``count`` tokens end at ``end_of(count)``."""
    first = bisect_right(counts, start, key=end_of) - 1
    first = bisect_left(counts, end_of(first), key=end_of)
    return (first, max(first, bisect_left(counts, end, key=end_of))) if start < end else (first, first)
