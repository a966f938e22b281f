"""Run every fault of tests/faults, with 50 SIGKILLs, and print the lost time and work.

    python scripts/faults.py                       everything, about ten minutes on two idle cores
    python scripts/faults.py kills=200             more kills
    python scripts/faults.py only=disk             one file of tests/faults: kills, disk, signals, checkpoints, …

The same tests run in CI with fewer kills. ``ledger=FILE`` stores every fault as JSON. Full and read-only disks are
mounted in memory, which needs root; without it they are skipped, and the output says so.
"""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests" / "faults"


def main() -> int:
    """Run the suite, and return its exit code."""
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    environment = {**os.environ, "SFT_FAULTS_KILLS": words.pop("kills", "50")}
    if "ledger" in words:
        environment["SFT_FAULTS_LEDGER"] = str(Path(words.pop("ledger")).resolve())
    tests = TESTS / f"test_faults_{words.pop('only')}.py" if "only" in words else TESTS
    if words:
        print(f"unknown: {', '.join(words)}; known: kills=, only=, ledger=", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "--timeout=3600", str(tests)]
    return subprocess.run(command, env=environment, cwd=TESTS.parents[1], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
