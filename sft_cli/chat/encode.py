"""Encode rendered texts with trained spans into token ids, and verify every loss mask.

The ids of a prompt must be those of encoding only the prompt, as at inference; the answer follows.
Where the ids of the whole text do not begin with the ids of the prompt (a merge across the boundary), later turns would
see a history that serving never produces. Such a conversation is unrolled: each answer is encoded separately after its
prompt.

The whole text is encoded once, in pieces (tokens/segments.py explains why the result is the same). For a cut between
two pieces, the pieces of the prompt are pieces of the text, so the ids are equal. For a cut inside a piece, all earlier
pieces are shared; only the part of that piece up to the cut (``<|im_start|>assistant`` and a newline, the same in every
row) is encoded alone and compared. A cut inside an added token, a text with marks, and everything else that this does
not prove is encoded again up to every cut.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from sft_cli.chat.masks.proof import MARKED_LITERAL, EncodedText, MaskNotProven, MaskVerifier, Result
from sft_cli.chat.masks.rendered_text import RenderedText
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.tokens.segments import Piece, SegmentEncoder
from sft_cli.chat.tokens.tokenizer import ChatTokenizer

__all__ = ["EncodedText", "Encoder", "MaskNotProven"]
EMPTY_PIECE: Piece = ("", "")


class _EncodingPlan(NamedTuple):
    """How to encode a text in one pass.

    Attributes:
        pieces: The pieces of the text.
        cuts: For each cut, the number of whole pieces before it and the part of the next piece before it.
    """

    pieces: list[Piece]
    cuts: list[tuple[int, Piece]]


class Encoder:
    """Encode rendered texts with one tokenizer and verify the result."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._segments = SegmentEncoder(tokenizer)
        self._verifier = MaskVerifier(tokenizer)

    def encode(self, batch: Sequence[RenderedText]) -> list[Result]:
        """Encode and verify each text.

        Returns:
            One entry per text: the ids; None if a text with several spans must be unrolled; ``MaskNotProven``, returned
            instead of raised, if the mask cannot be proven.
        """
        results = self._verifier.verify(batch, self._encode_in_one_pass(batch), control_checked=True)
        unproven = [i for i, result in enumerate(results) if not isinstance(result, EncodedText)]
        if unproven:
            for i, result in zip(unproven, self.encode_by_prefixes([batch[i] for i in unproven]), strict=True):
                results[i] = result
        return results

    def encode_by_prefixes(self, batch: Sequence[RenderedText]) -> list[Result]:
        """Encode like ``encode``, but each text up to every cut: several times the work, and always applicable."""
        cuts = [rendered.text[:at] for rendered in batch for span in rendered.spans for at in (span.start, span.end)]
        ids = iter(self._encode_batch(cuts))
        drafts = [_from_prefixes([(next(ids), next(ids)) for _ in rendered.spans]) for rendered in batch]
        results = self._verifier.verify(batch, drafts)
        failed = [i for i, result in enumerate(results) if not isinstance(result, EncodedText)]
        for i in failed:
            results[i] = None
        single = [i for i in failed if len(batch[i].spans) == 1]
        retried = self._verifier.verify([batch[i] for i in single], [self._encode_separately(batch[i]) for i in single])
        for i, result in zip(single, retried, strict=True):
            results[i] = result
        return results

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of one text; special-token strings between marks are encoded as ordinary characters."""
        return self._encode_batch([text])[0]

    def _encode_in_one_pass(self, batch: Sequence[RenderedText]) -> list[EncodedText | None]:
        """Return the ids of each text with the token ranges of its spans; None where one pass does not prove them."""
        plans = [self._plan_encoding(rendered) for rendered in batch]
        pieces: list[Piece] = []
        for plan in plans:
            if plan is not None:
                pieces += plan.pieces
                pieces += [part for _, part in plan.cuts]
        piece_ids = iter(self._segments.encode(pieces))
        drafts: list[EncodedText | None] = []
        for plan in plans:
            if plan is None:
                drafts.append(None)
                continue
            own_ids = list(itertools.islice(piece_ids, len(plan.pieces)))
            drafts.append(_assemble(own_ids, plan.cuts, list(itertools.islice(piece_ids, len(plan.cuts)))))
        return drafts

    def _plan_encoding(self, rendered: RenderedText) -> _EncodingPlan | None:
        """Plan how to encode a text in one pass; None for a text with marks, or where one pass proves nothing."""
        parts = self._segments.split(rendered.text) if MARK_START not in rendered.text else None
        if parts is None:
            return None
        ends = list(itertools.accumulate(map(len, parts)))
        cuts: list[tuple[int, Piece]] = []
        for span in rendered.spans:
            for at in (span.start, span.end):
                i = bisect_right(ends, at)  # the part with the character after the cut; odd parts are tokens
                offset = at - ends[i - 1] if i else at
                if i % 2 == 0 and i < len(parts):
                    cuts.append((i // 2, (parts[i - 1] if i else "", parts[i][:offset])))
                elif offset:
                    return None
                else:
                    cuts.append(((i + 1) // 2, EMPTY_PIECE))
        return _EncodingPlan(list(zip(["", *parts[1::2]], parts[::2], strict=True)), cuts)

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        result = self._tokenizer.encode_batch([text if MARK_START not in text else "" for text in texts])
        for i, text in enumerate(texts):
            if MARK_START in text:
                result[i] = self._encode_marked(text)
        return result

    def _encode_marked(self, text: str, starts_text: bool = True) -> list[int]:
        """Return the ids of a text with marks: each marked string is encoded by itself as characters."""
        ids: list[int] = []
        done = 0
        for match in MARKED_LITERAL.finditer(text):
            ids += self._encode_continuation(text[done : match.start()], starts_text=starts_text and not ids)
            ids += self._encode_continuation(match.group(1) or "", starts_text=starts_text and not ids, as_text=True)
            done = match.end()
        return ids + self._encode_continuation(text[done:], starts_text=starts_text and not ids)

    def _encode_continuation(self, text: str, *, starts_text: bool = False, as_text: bool = False) -> list[int]:
        """Return the ids of a text that follows other text: without SentencePiece's leading space."""

        def encode(text: str) -> list[int]:
            return self._tokenizer.encode_as_text(text) if as_text else self._tokenizer.encode_batch([text])[0]

        if starts_text or not text:
            return encode(text) if text else []
        newline, with_newline = encode("\n"), encode("\n" + text)
        return with_newline[len(newline) :] if with_newline[: len(newline)] == newline else encode(text)

    def _encode_separately(self, rendered: RenderedText) -> EncodedText:
        """Encode the prompt and the answer separately, as inference does."""
        span = rendered.spans[0]
        prompt, answer = self.encode_text(rendered.text[: span.start]), rendered.text[span.start : span.end]
        answer_ids = (
            self._encode_marked(answer, starts_text=False)
            if MARK_START in answer
            else self._encode_continuation(answer)
        )
        return EncodedText(prompt + answer_ids, [(len(prompt), len(prompt) + len(answer_ids))])


def _assemble(
    piece_ids: list[list[int] | None], cuts: list[tuple[int, Piece]], part_ids: list[list[int] | None]
) -> EncodedText | None:
    """Join the ids of all pieces; None if the ids of a piece do not begin with the ids of its part before a cut."""
    ids = [ids for ids in piece_ids if ids is not None]
    if len(ids) != len(piece_ids):
        return None
    starts = [0, *itertools.accumulate(map(len, ids))]
    positions = []
    for (i, _), part in zip(cuts, part_ids, strict=True):
        if part is None or (part and ids[i][: len(part)] != part):
            return None
        positions.append(starts[i] + len(part))
    return EncodedText(
        list(itertools.chain.from_iterable(ids)), list(zip(positions[::2], positions[1::2], strict=True))
    )


def _from_prefixes(cuts: list[tuple[list[int], list[int]]]) -> EncodedText | None:
    """Return the ids of the whole text; None if they do not begin with the ids up to an earlier cut."""
    all_ids = cuts[-1][1]
    if all(all_ids[: len(ids)] == ids for cut in cuts for ids in cut):
        return EncodedText(all_ids, [(len(prompt), len(end)) for prompt, end in cuts])
    return None
