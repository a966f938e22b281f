"""Texts with trained spans into token ids, and the proof of every mask.

The ids of a prompt are what the tokenizer makes of the prompt alone, the boundary inference has; the answer follows.
Where the ids of the whole text do not begin with those (a merge across the boundary), later turns would see a history
serving never produces: such a conversation is unrolled, and its answer is tokenized by itself behind the prompt.

The whole text is tokenized once, in pieces (tokens/segments.py says why that is the same). For a cut between pieces the
prompt's pieces are the text's own, so its ids are too. For a cut inside a piece all pieces before it are shared, and
only that piece's part up to the cut - ``<|im_start|>assistant`` and a newline, the same in every row - is tokenized
alone and compared: the ids of the prompt are those of its pieces. A cut inside an added token, a marked text, and
whatever else is not proven this way is encoded again up to every cut.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from sft_cli.chat.masks.proof import LITERAL, Encoded, Proof, Result, Unproven
from sft_cli.chat.masks.sentinels import MARK_START
from sft_cli.chat.masks.spans import Rendered
from sft_cli.chat.tokens.segments import Piece, Segments
from sft_cli.chat.tokens.tokenizer import ChatTokenizer

__all__ = ["Encoded", "Encoder", "Unproven"]
NOTHING: Piece = ("", "")


class _Plan(NamedTuple):
    """How a text is encoded in one pass.

    Attributes:
        pieces: Its pieces.
        cuts: For each cut the number of whole pieces before it and the part of the next one before it.
    """

    pieces: list[Piece]
    cuts: list[tuple[int, Piece]]


class Encoder:
    """Encodes rendered texts with one tokenizer and proves the result."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._segments = Segments(tokenizer)
        self._proof = Proof(tokenizer)

    def encode(self, batch: Sequence[Rendered]) -> list[Result]:
        """Encode and prove each text.

        Returns:
            One entry per text: the ids; None where a text of several spans must be unrolled; ``Unproven`` (not raised)
            where the mask cannot be proven.
        """
        results = self._proof.results(batch, self._in_one_pass(batch), counted=True)
        rest = [i for i, result in enumerate(results) if not isinstance(result, Encoded)]
        if rest:
            for i, result in zip(rest, self.at_every_cut([batch[i] for i in rest]), strict=True):
                results[i] = result
        return results

    def at_every_cut(self, batch: Sequence[Rendered]) -> list[Result]:
        """As ``encode``, but each text is tokenized up to every cut: several times the work, and no argument needed."""
        cuts = [rendered.text[:at] for rendered in batch for span in rendered.spans for at in (span.start, span.end)]
        ids = iter(self._ids(cuts))
        drafts = [_joint([(next(ids), next(ids)) for _ in rendered.spans]) for rendered in batch]
        results = self._proof.results(batch, drafts)
        apart = [i for i, result in enumerate(results) if not isinstance(result, Encoded)]
        for i in apart:
            results[i] = None
        alone = [i for i in apart if len(batch[i].spans) == 1]
        again = self._proof.results([batch[i] for i in alone], [self._apart(batch[i]) for i in alone])
        for i, result in zip(alone, again, strict=True):
            results[i] = result
        return results

    def ids(self, text: str) -> list[int]:
        """Ids of one text; marked special-token strings in it become ordinary characters."""
        return self._ids([text])[0]

    def _in_one_pass(self, batch: Sequence[Rendered]) -> list[Encoded | None]:
        """The ids of each text with the ranges of its spans; None where one pass does not settle them."""
        plans = [self._plan(rendered) for rendered in batch]
        wanted: list[Piece] = []
        for plan in plans:
            if plan is not None:
                wanted += plan.pieces
                wanted += [part for _, part in plan.cuts]
        found = iter(self._segments.ids(wanted))
        drafts: list[Encoded | None] = []
        for plan in plans:
            if plan is None:
                drafts.append(None)
                continue
            pieces = list(itertools.islice(found, len(plan.pieces)))
            drafts.append(_joined(pieces, plan.cuts, list(itertools.islice(found, len(plan.cuts)))))
        return drafts

    def _plan(self, rendered: Rendered) -> _Plan | None:
        """How to encode a text in one pass; None for a text with marks, and where that proves nothing."""
        parts = self._segments.cut(rendered.text) if MARK_START not in rendered.text else None
        if parts is None:
            return None
        ends = list(itertools.accumulate(map(len, parts)))
        cuts: list[tuple[int, Piece]] = []
        for span in rendered.spans:
            for at in (span.start, span.end):
                i = bisect_right(ends, at)  # the part that holds the character behind the cut; tokens are odd ones
                inside = at - ends[i - 1] if i else at
                if i % 2 == 0 and i < len(parts):
                    cuts.append((i // 2, (parts[i - 1] if i else "", parts[i][:inside])))
                elif inside:
                    return None
                else:
                    cuts.append(((i + 1) // 2, NOTHING))
        return _Plan(list(zip(["", *parts[1::2]], parts[::2], strict=True)), cuts)

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
        for match in LITERAL.finditer(text):
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


def _joined(
    pieces: list[list[int] | None], cuts: list[tuple[int, Piece]], parts: list[list[int] | None]
) -> Encoded | None:
    """The ids of all pieces; None if those of a piece do not begin with those of its part up to a cut."""
    known = [ids for ids in pieces if ids is not None]
    if len(known) != len(pieces):
        return None
    starts = [0, *itertools.accumulate(map(len, known))]
    edges = []
    for (i, _), part in zip(cuts, parts, strict=True):
        if part is None or (part and known[i][: len(part)] != part):
            return None
        edges.append(starts[i] + len(part))
    return Encoded(list(itertools.chain.from_iterable(known)), list(zip(edges[::2], edges[1::2], strict=True)))


def _joint(cuts: list[tuple[list[int], list[int]]]) -> Encoded | None:
    """The ids of the whole text; None where they do not begin with those of an earlier cut."""
    whole = cuts[-1][1]
    if all(whole[: len(ids)] == ids for cut in cuts for ids in cut):
        return Encoded(whole, [(len(prompt), len(end)) for prompt, end in cuts])
    return None
