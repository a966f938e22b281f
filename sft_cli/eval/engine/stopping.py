"""End a call of ``generate`` when half of its rows have stopped, so that the others go on without them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StopStringCriteria


class HalfStopped(StoppingCriteria):
    """Ends each row at a stop token or a stop text, and all rows when at least half of several have ended."""

    def __init__(self, stop_ids: Sequence[int], stop_strings: StopStringCriteria | None, *, stop_early: bool) -> None:
        """Create the criterion of one call of ``generate``.

        Args:
            stop_ids: Tokens that end a row.
            stop_strings: Texts that end a row.
            stop_early: Whether half of the rows end all of them.
        """
        self._stop_ids, self._stop_strings, self._stop_early = list(stop_ids), stop_strings, stop_early
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return for each row whether it ends here."""
        last = input_ids[:, -1:]
        ended = (last == torch.tensor(self._stop_ids, device=last.device)).any(dim=1)
        if self._stop_strings is not None:
            ended = ended | self._stop_strings(input_ids, scores).to(ended.device)
        self._ended = ended if self._ended is None else self._ended | ended
        if self._stop_early and 2 * int(self._ended.sum()) >= len(self._ended):
            return torch.ones_like(self._ended)
        return self._ended

    def unfinished(self) -> list[int]:
        """Return the rows that have not ended."""
        assert self._ended is not None
        return torch.nonzero(~self._ended).flatten().tolist()
