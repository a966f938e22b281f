"""What token ids say: the bytes of each where those are known, else what the tokenizer decodes."""

from collections.abc import Sequence

from sft_cli.chat.tokens.token_bytes import TokenBytes
from sft_cli.chat.tokens.tokenizer import ChatTokenizer


class Reads:
    """Reads the ids of one tokenizer.

    Attributes:
        bytes: The bytes of every token; None if the decoder does not write tokens one by one.
        canonical: A text after the tokenizer's own normalisation.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders strip a leading space at a beginning: trained ids are read behind a newline, as behind other text.
        self._anchor = tokenizer.encode_batch(["\n"])[0][-1:]
        self._anchor_text = tokenizer.decode_batch([self._anchor])[0]
        self.bytes = TokenBytes.of(tokenizer.backend)
        self.canonical = tokenizer.canonical

    def spells(self, ids: list[int], wanted: str, exactly: bool = False) -> bool:
        """Whether the bytes of the ids are known, and those of the text or (not ``exactly``) of its canonical form."""
        if self.bytes is None:
            return False
        spelled = self.bytes.join(ids)
        return spelled == wanted.encode() or (not exactly and spelled == self.canonical(wanted).encode())

    def texts(self, ranges: Sequence[tuple[list[int], bool]]) -> list[str]:
        """What ids say, each given with whether other text stands before it."""
        texts = self._tokenizer.decode_batch([self._anchor + ids if behind else ids for ids, behind in ranges])
        return [
            text.removeprefix(self._anchor_text) if behind else text
            for text, (_, behind) in zip(texts, ranges, strict=True)
        ]
