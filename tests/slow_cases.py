"""Choose the cases of expensive parametrised tests that only .ci/nightly runs, and write tests/slow_cases.txt.

    pytest -q --durations=0 --durations-min=0.1 > durations.txt
    python -m tests.slow_cases durations.txt

Of a test whose cases take more than ``MIN_SECONDS`` together every fourth case runs for each change, at least two: the
others are slow. Cases that are listed already stay listed: their durations are unknown.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

FILE = Path(__file__).with_name("slow_cases.txt")
MIN_SECONDS = 1.0
"""Seconds of all cases of a test from which some of them become slow."""
KEPT = 4
"""One case of so many runs for every change."""
_LINE = re.compile(r"([0-9.]+)s (?:call|setup|teardown) +((tests/[^:]+::[^\[]+)\[.*\])$")


def choose(lines: Iterable[str]) -> list[str]:
    """Return the node ids of the cases to run nightly only, from lines of pytest's durations."""
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for line in lines:
        if match := _LINE.match(line.strip()):
            seconds[match[3]][match[2]] += float(match[1])
    slow = []
    for cases in seconds.values():
        if sum(cases.values()) < MIN_SECONDS or len(cases) < 3:
            continue
        ids = sorted(cases)
        count = max(2, len(ids) // KEPT)
        kept = {ids[round(i * (len(ids) - 1) / (count - 1))] for i in range(count)}
        slow += [case for case in ids if case not in kept]
    return slow


def main() -> None:
    """Add the cases from files of durations to the list."""
    listed = set(FILE.read_text(encoding="utf-8").splitlines()) if FILE.exists() else set()
    for name in sys.argv[1:]:
        listed |= set(choose(Path(name).read_text(encoding="utf-8").splitlines()))
    FILE.write_text("".join(f"{case}\n" for case in sorted(listed)), encoding="utf-8")
    print(f"{len(listed)} cases in {FILE}")


if __name__ == "__main__":
    main()
