"""Measure time and memory of near-duplicate filtering on real rows and slightly changed copies of them.

    python scripts/bench/bench_near_duplicates.py ROWS.json [num_rows] [processes] [minhash|rouge_l]

ROWS.json holds Alpaca rows (instruction, input, output); GSM8K's 7,473 are a good choice. Of num_rows (100000) rows,
10% are exact copies, 20% copies with one replaced word, 20% instances of one template, and the rest random texts with
the word frequencies of ROWS.json.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.clean import near_duplicates
from sft_cli.clean.base import BATCH
from sft_cli.config.schema.clean import Method, NearDuplicatesConfig
from sft_cli.types import Conversation, Message


@dataclass(frozen=True)
class Spread:
    """Rows in memory, distributed in batches to processes and read back in order."""

    conversations: Sequence[Conversation]
    processes: int = 2

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Conversation:
        return self.conversations[index]

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Return ``(rows,)`` False: no row is held out."""
        return np.zeros(len(self), np.bool_)

    @property
    def priority(self) -> NDArray[np.int64]:
        """Return ``(rows,)`` zeros: all rows have the same priority."""
        return np.zeros(len(self), np.int64)

    def map(self, function: Callable[..., Any], argument: Any) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield the results of ``function`` for all batches of rows."""
        starts = range(0, len(self), BATCH)
        batches = [self.conversations[start : start + BATCH] for start in starts]
        with ProcessPoolExecutor(self.processes) as pool:
            yield from zip(starts, pool.map(function, batches, [argument] * len(batches)), strict=True)


def texts(rows: Sequence[dict[str, str]], num_rows: int) -> Iterator[str]:
    """Yield ``num_rows`` prompts, as the module docstring describes."""
    choose = random.Random(0)
    own = [f"{row['instruction']}\n{row['input']}".strip() for row in rows]
    words = [word for text in own for word in text.split()]
    for number in range(num_rows):
        source = own[number % len(own)]
        kind = 9 if number < len(own) else choose.randrange(10)
        if kind == 0:
            yield source
        elif kind <= 2:
            changed = source.split()
            changed[choose.randrange(len(changed))] = choose.choice(words)
            yield " ".join(changed)
        elif kind <= 4:
            filled = " ".join(choose.choices(words, k=25))
            yield f"Read the following sentence and say whether it is about people or about things: {filled}"
        elif number < len(own):
            yield source
        else:
            yield " ".join(choose.choices(words, k=len(source.split())))


def main() -> None:
    """Print a line: rows, processes, seconds, rows per second, rows found, peak memory."""
    arguments = sys.argv[1:]
    if not arguments:
        sys.exit(__doc__)
    rows = json.loads(Path(arguments[0]).read_text("utf-8"))
    num_rows, processes = (int(word) for word in [*arguments[1:3], *("100000", "2")[len(arguments[1:3]) :]])
    method = Method(arguments[3] if len(arguments) > 3 else "minhash")
    said = [
        Conversation((Message("user", text), Message("assistant", "-")), f"bench:{number}", "bench")
        for number, text in enumerate(texts(rows, num_rows), start=1)
    ]
    config = NearDuplicatesConfig(method=method, threshold=0.7 if method is Method.rouge_l else 0.8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = sum(1 for _ in near_duplicates.find_near_duplicates(Spread(said, processes=processes), config))
    seconds = time.perf_counter() - start
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{method.value}: {num_rows} rows, {processes} processes: {seconds:.1f} s, {num_rows / seconds:.0f} rows/s, "
        f"{found} near duplicates, {more:.0f} MiB above the rows themselves"
    )


if __name__ == "__main__":
    main()
