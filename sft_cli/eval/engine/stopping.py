"""End a call of ``generate`` when half of its rows have stopped, so that the others go on without them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StopStringCriteria


class HalfStopped(StoppingCriteria):
    """Ends each row at a stop token or a stop text, and all rows when at least half of several have ended."""

    def __init__(self, stop_ids: Sequence[int], stop_texts: Sequence[str], tokenizer: Any, *, stop_early: bool) -> None:
        """Create the criterion of one call of ``generate``.

        Args:
            stop_ids: Tokens that end a row.
            stop_texts: Texts that end a row.
            tokenizer: Decodes ids for ``stop_texts``; unused without them.
            stop_early: Whether half of the rows end all of them.
        """
        self._stop_ids, self._stop_early = list(stop_ids), stop_early
        self._stop_strings = StopStringCriteria(tokenizer, list(stop_texts)) if stop_texts else None
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return for each row whether it ends here."""
        last = input_ids[:, -1:]
        ended: Tensor = (last == torch.tensor(self._stop_ids, device=last.device)).any(dim=1)
        if self._stop_strings is not None:
            ended = ended | self._stop_strings(input_ids, scores).to(ended.device)
        if self._ended is not None:
            ended = ended | self._ended
        self._ended = ended
        if self._stop_early and 2 * int(ended.sum()) >= len(ended):
            return torch.ones_like(ended)
        return ended

    def unfinished(self) -> list[int]:
        """Return the rows that have not ended."""
        assert self._ended is not None
        return torch.nonzero(~self._ended).flatten().tolist()
