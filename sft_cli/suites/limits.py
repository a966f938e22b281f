"""Limits of an evaluation: tokens and time."""

import time
from dataclasses import dataclass, field

from sft_cli.config.schema.config import EvalConfig


@dataclass(slots=True)
class EvalLimits:
    """The tokens and the time that are left.

    Attributes:
        max_tokens: Most tokens to generate; None for no limit.
        max_minutes: Most minutes; None for no limit.
        tokens: Number of tokens generated so far.
    """

    max_tokens: int | None = None
    max_minutes: float | None = None
    tokens: int = 0
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def from_config(cls, config: EvalConfig) -> "EvalLimits":
        """Return the limits of a config, counted from now on."""
        return cls(config.max_tokens, config.max_minutes)

    def reached(self) -> str:
        """Return the limit that is reached, as ``key=value``; empty if none is."""
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            return f"eval.max_tokens={self.max_tokens}"
        if self.max_minutes is not None and time.monotonic() - self._began >= self.max_minutes * 60:
            return f"eval.max_minutes={self.max_minutes:g}"
        return ""
