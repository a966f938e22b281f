"""Limits of an evaluation: tokens, time and cost."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sft_cli.config.schema.config import EvalConfig


@dataclass(slots=True)
class EvalLimits:
    """The tokens, the time and the cost that are left.

    Attributes:
        max_tokens: Most tokens to generate; None for no limit.
        max_minutes: Most minutes; None for no limit.
        max_cost: Highest cost; None for no limit.
        price_input: Price of a million tokens of requests.
        price_output: Price of a million tokens of answers.
        processes: Number of processes that share the items; each counts its own tokens.
        group: Group of the config that holds the limits, for the name of the one that is reached.
        tokens: Number of tokens generated so far.
        cost: Cost so far.
    """

    max_tokens: int | None = None
    max_minutes: float | None = None
    max_cost: float | None = None
    price_input: float = 0.0
    price_output: float = 0.0
    processes: int = 1
    group: str = "eval"
    tokens: int = 0
    cost: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def from_config(cls, config: EvalConfig, processes: int = 1) -> "EvalLimits":
        """Return the limits of a config, counted from now on."""
        prices = config.endpoint.price_input, config.endpoint.price_output
        return cls(config.max_tokens, config.max_minutes, config.max_cost, *prices, processes)

    def count(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count the tokens of lines of answers, and what they cost."""
        for record in records:
            self.tokens += record["num_tokens"]
            asked = record.get("input_tokens", 0)
            self.cost += (asked * self.price_input + record["num_tokens"] * self.price_output) / 1e6

    def reached(self) -> str:
        """Return the limit that is reached, as ``key=value``; empty if none is."""
        if self.max_tokens is not None and self.tokens * self.processes >= self.max_tokens:
            return f"{self.group}.max_tokens={self.max_tokens}"
        if self.max_minutes is not None and time.monotonic() - self._began >= self.max_minutes * 60:
            return f"{self.group}.max_minutes={self.max_minutes:g}"
        if self.max_cost is not None and self.cost >= self.max_cost:
            return f"{self.group}.max_cost={self.max_cost:g}"
        return ""
