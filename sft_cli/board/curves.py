"""Curves of a run: the whole of metrics.jsonl in arrays that grow with it, and few points of it for a picture."""

import math
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from sft_cli.board.tails import JsonLinesTail
from sft_cli.run_dir import RunDir
from sft_cli.train.scalars import scalars

BUCKETS = 400
"""Parts of the shown steps, of each of which the smallest and the largest value are kept."""
MAX_RUNS = 16
"""Runs whose curves stay in memory, the last used ones."""
LEFT_OUT = frozenset(
    f"train/{name}" for name in ("epoch", "examples", "tokens", "computed_tokens", "trained_tokens", "seconds")
) | {"eval/epoch", "eval/trained_tokens", "eval/perplexity"}
"""Values that nobody looks at as curves."""
FIRST = ("train/loss", "eval/loss", "train/lr", "train/grad_norm", "train/tokens_per_second", "train/memory")
"""Curves in the order of the page; others follow by name."""
Points = list[tuple[int, float]]
"""Step and value, by step."""


class RunCurves:
    """All values of a run by name, 16 bytes each."""

    def __init__(self, run: RunDir) -> None:
        self._tail = JsonLinesTail(run.metrics)
        self._series: dict[str, tuple[array[int], array[float]]] = {}
        self._version = 0
        self._lock = threading.Lock()

    def read(self, first: int | None, last: int | None, buckets: int = BUCKETS) -> dict[str, Any]:
        """Return the points of every curve between two steps, and a version that changes with the values.

        Args:
            first: The first step; None for that of the run.
            last: The last step; None for that of the run.
            buckets: Parts of the steps of which two points are kept.
        """
        with self._lock:
            self._append()
            names = sorted(self._series, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
            curves = {name: downsample(*self._series[name], first, last, buckets) for name in names}
            steps = [values[0][-1] for values in self._series.values()]
            return {"version": self._version, "last_step": max(steps, default=0), "curves": curves}

    def _append(self) -> None:
        """Read the new lines."""
        lines, replaced = self._tail.read()
        if replaced:
            self._series.clear()
        self._version += bool(lines or replaced)
        for line in lines:
            step = line.get("step")
            if not isinstance(step, int) or isinstance(step, bool):
                continue
            terms = line.get("terms") or {}
            if len(terms) == 1:
                line = {**line, "terms": {}}  # the only term of the loss is the loss
            for name, value in scalars(line):
                if name in LEFT_OUT or isinstance(value, bool) or not math.isfinite(value):
                    continue
                steps, values = self._series.setdefault(name, (array("q"), array("d")))
                steps.append(step)
                values.append(value)


def downsample(
    steps: Sequence[int], values: Sequence[float], first: int | None, last: int | None, buckets: int
) -> Points:
    """Return the points between two steps; of many points the smallest and the largest of each bucket.

    A spike of one step stays visible, which it would not in averages.

    Args:
        steps: ``(points,)`` steps, ascending.
        values: ``(points,)`` values.
        first: First step; None for all.
        last: Last step; None for all.
        buckets: Number of buckets.
    """
    x, y = np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
    inside = slice(
        0 if first is None else int(np.searchsorted(x, first)),
        len(x) if last is None else int(np.searchsorted(x, last, side="right")),
    )
    x, y = x[inside], y[inside]
    if len(x) <= 2 * buckets:
        return list(zip(x.tolist(), y.tolist(), strict=True))
    edges = np.linspace(0, len(x), buckets + 1).astype(np.int64)
    kept = {0, len(x) - 1}
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        kept |= {start + int(y[start:stop].argmin()), start + int(y[start:stop].argmax())}
    indices = sorted(kept)
    return list(zip(x[indices].tolist(), y[indices].tolist(), strict=True))


class CurveStore:
    """The curves of the runs that were looked at last."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, RunCurves] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run: RunDir) -> RunCurves:
        """Return the curves of a run."""
        key = str(run.path)
        with self._lock:
            curves = self._runs.pop(key, None) or RunCurves(run)
            self._runs[key] = curves
            while len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
            return curves
