"""Decode token ids: by the bytes of each token where those are known, else by the tokenizer."""

from collections.abc import Sequence

from sft_cli.chat.tokens.token_bytes import TokenBytes
from sft_cli.chat.tokens.tokenizer import ChatTokenizer


class TokenTextReader:
    """Decode the ids of one tokenizer.

    Attributes:
        token_bytes: The bytes of every token; None if the decoder does not write tokens one by one.
        normalize: Normalizes a text as the tokenizer does.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders strip a leading space at a beginning: trained ids are read behind a newline, as behind other text.
        self._anchor = tokenizer.encode_batch(["\n"])[0][-1:]
        self._anchor_text = tokenizer.decode_batch([self._anchor])[0]
        self.token_bytes = TokenBytes.from_tokenizer(tokenizer.backend)
        self.normalize = tokenizer.normalize

    def decodes_to(self, ids: list[int], expected: str, exactly: bool = False) -> bool:
        """Whether the known bytes of the ids equal those of the text or (not ``exactly``) of its normalized form."""
        if self.token_bytes is None:
            return False
        joined = self.token_bytes.join(ids)
        return joined == expected.encode() or (not exactly and joined == self.normalize(expected).encode())

    def decode(self, ranges: Sequence[tuple[list[int], bool]]) -> list[str]:
        """Return the text of each list of ids, each given with whether it follows other text."""
        texts = self._tokenizer.decode_batch(
            [self._anchor + ids if follows_text else ids for ids, follows_text in ranges]
        )
        return [
            text.removeprefix(self._anchor_text) if behind else text
            for text, (_, behind) in zip(texts, ranges, strict=True)
        ]
