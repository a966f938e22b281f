"""Texts with trained spans into token ids, and the proof of every mask.

The ids of a prompt are what the tokenizer makes of the prompt alone, the boundary inference has; the answer follows.
Where the ids of the whole text do not begin with those (a merge across the boundary), later turns would see a history
serving never produces: such a conversation is unrolled, and its answer is tokenized by itself behind the prompt.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sft_cli.chat.spans import MARK_END, MARK_START, Rendered
from sft_cli.chat.tokenizer import ChatTokenizer

_LITERAL = re.compile(f"{MARK_START}([^{MARK_END}]*){MARK_END}|[{MARK_START}{MARK_END}]")


class Unproven(Exception):
    """The mask of a text cannot be proven; the message says what differs."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and the index ranges ``(start, end)`` that are trained, one for each span of the text."""

    input_ids: list[int]
    spans: list[tuple[int, int]]


class Encoder:
    """Encodes rendered texts with one tokenizer and proves the result."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders strip a leading space at a beginning: trained ids are read behind a newline, as behind other text.
        self._anchor = tokenizer.encode_batch(["\n"])[0][-1:]
        self._anchor_text = tokenizer.decode_batch([self._anchor])[0]
        longest_first = sorted(tokenizer.control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._control_ids = frozenset(tokenizer.control.values())

    def encode(self, batch: Sequence[Rendered]) -> list[Encoded | Unproven | None]:
        """Encode and prove each text.

        Returns:
            One entry per text: the ids; None where a text of several spans must be unrolled; ``Unproven`` (not raised)
            where the mask cannot be proven.
        """
        cuts = [rendered.text[:at] for rendered in batch for span in rendered.spans for at in (span.start, span.end)]
        ids = iter(self._ids(cuts))
        results = self._proven(batch, [_joint([(next(ids), next(ids)) for _ in rendered.spans]) for rendered in batch])
        apart = [i for i, result in enumerate(results) if not isinstance(result, Encoded)]
        for i in apart:
            results[i] = None
        alone = [i for i in apart if len(batch[i].spans) == 1]
        again = self._proven([batch[i] for i in alone], [self._apart(batch[i]) for i in alone])
        for i, result in zip(alone, again, strict=True):
            results[i] = result
        return results

    def ids(self, text: str) -> list[int]:
        """Ids of one text; marked special-token strings in it become ordinary characters."""
        return self._ids([text])[0]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        result = self._tokenizer.encode_batch([text if MARK_START not in text else "" for text in texts])
        for i, text in enumerate(texts):
            if MARK_START in text:
                result[i] = self._marked(text)
        return result

    def _marked(self, text: str, begins: bool = True) -> list[int]:
        """Ids of a text with marks: each literal by itself as characters, what stands between as usual."""
        ids: list[int] = []
        at = 0
        for match in _LITERAL.finditer(text):
            ids += self._behind(text[at : match.start()], begins=begins and not ids)
            ids += self._behind(match.group(1) or "", begins=begins and not ids, as_text=True)
            at = match.end()
        return ids + self._behind(text[at:], begins=begins and not ids)

    def _behind(self, text: str, *, begins: bool = False, as_text: bool = False) -> list[int]:
        """Ids of a text that stands behind other text: without the space SentencePiece puts before a beginning."""

        def encode(text: str) -> list[int]:
            return self._tokenizer.encode_as_text(text) if as_text else self._tokenizer.encode_batch([text])[0]

        if begins or not text:
            return encode(text) if text else []
        newline, after = encode("\n"), encode("\n" + text)
        return after[len(newline) :] if after[: len(newline)] == newline else encode(text)

    def _apart(self, rendered: Rendered) -> Encoded:
        """The ids of the prompt and, tokenized by itself, the answer: what inference makes of them."""
        span = rendered.spans[0]
        prompt, answer = self.ids(rendered.text[: span.start]), rendered.text[span.start : span.end]
        behind = self._marked(answer, begins=False) if MARK_START in answer else self._behind(answer)
        return Encoded(prompt + behind, [(len(prompt), len(prompt) + len(behind))])

    def _proven(self, batch: Sequence[Rendered], drafts: Sequence[Encoded | None]) -> list[Encoded | Unproven | None]:
        """Each draft if its mask is right, else what is wrong with it; None for no draft."""
        said = iter(self._said([draft for draft in drafts if draft is not None]))
        return [
            draft and (self._fault(rendered, draft, [next(said) for _ in draft.spans]) or draft)
            for rendered, draft in zip(batch, drafts, strict=True)
        ]

    def _said(self, drafts: Iterable[Encoded]) -> list[str]:
        """The decoded text of every trained range."""
        ranges = [(draft.input_ids[start:end], start) for draft in drafts for start, end in draft.spans]
        texts = self._tokenizer.decode_batch([self._anchor + ids if start else ids for ids, start in ranges])
        return [
            text.removeprefix(self._anchor_text) if start else text
            for text, (_, start) in zip(texts, ranges, strict=True)
        ]

    def _fault(self, rendered: Rendered, encoded: Encoded, said: list[str]) -> Unproven | None:
        """Why a mask is wrong: trained text, control tokens or stop tokens are not those of the rendered text."""
        for span, text in zip(rendered.spans, said, strict=True):
            wanted = _LITERAL.sub(r"\1", rendered.text[span.start : span.end])
            if text != wanted and text != self._tokenizer.canonical(wanted):
                return Unproven(f"the trained ids decode to {text[:80]!r}, not to {wanted[:80]!r}")
        control = self._tokenizer.control
        written = [control[name] for name in self._control.findall(_LITERAL.sub("\0", rendered.text))]
        if [id for id in encoded.input_ids if id in self._control_ids] != written:
            return Unproven("its control tokens are not exactly those the template wrote")
        for (start, end), stop in zip(encoded.spans, rendered.stops, strict=True):
            if start == end or encoded.input_ids[end - 1] != control[stop]:
                return Unproven(f"an answer does not end in its stop token {stop!r}")
        return None


def _joint(cuts: list[tuple[list[int], list[int]]]) -> Encoded | None:
    """The ids of the whole text; None where they do not begin with those of an earlier cut."""
    whole = cuts[-1][1]
    if all(whole[: len(ids)] == ids for cut in cuts for ids in cut):
        return Encoded(whole, [(len(prompt), len(end)) for prompt, end in cuts])
    return None
