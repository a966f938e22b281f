"""The live panel of ``sft train`` on a terminal: a few lines that are drawn again after a step."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from sft_cli.progress import TERMINAL_SECONDS, draw_block, text_bar

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40
"""Most characters of the loss's sparkline; each is the mean of neighbouring steps."""


@dataclass(slots=True)
class TrainPanel:
    """What the panel shows besides the last step.

    Attributes:
        evaluation: The line of the last evaluation; empty before the first.
        sample: The line of the last sample answer; empty before the first.
        losses: The losses of this session's steps.
    """

    evaluation: str = ""
    sample: str = ""
    losses: list[float] = field(default_factory=list)
    _drawn: float = 0.0

    def draw(self, share: float, position: str, loss: str, details: str) -> None:
        """Draw the panel, if enough time has passed since the last time.

        Args:
            share: Share of the steps that are done.
            position: Step, epoch, elapsed and remaining time.
            loss: The loss of the last step, with its terms.
            details: Speed, learning rate, gradient norm and memory.
        """
        now = time.perf_counter()
        if now - self._drawn < TERMINAL_SECONDS:
            return
        self._drawn = now
        lines = [
            f"train     {text_bar(share)} {share:4.0%}  {position}",
            f"loss      {loss}  {sparkline(self.losses, sys.stderr.encoding)}",
            f"speed     {details}",
        ]
        draw_block([*lines, *(line for line in (self.evaluation, self.sample) if line)])


def sparkline(values: Sequence[float], encoding: str | None, width: int = SPARKLINE_WIDTH) -> str:
    """Return a line of bars from the lowest to the highest value; empty if the terminal cannot show them.

    Args:
        values: The values; those that are not finite are left out.
        encoding: The encoding of the terminal.
        width: Most characters of the line.
    """
    finite = [value for value in values if abs(value) < float("inf")]
    try:
        BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ""
    every = -(-len(finite) // width)
    if len(finite) < 2:
        return ""
    means = [mean(finite[start : start + every]) for start in range(0, len(finite), every)]
    low, high = min(means), max(means)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1)) if high > low else 0] for value in means)
