"""Inject every fault of tests/faults for real, SIGKILL 50 times, and print what it cost.

    python scripts/faults.py                       everything, about ten minutes on two idle cores
    python scripts/faults.py kills=200             more kills
    python scripts/faults.py only=disk             one file of tests/faults: kills, disk, signals, checkpoints, …

The tests themselves, with fewer kills, are part of CI. ``ledger=FILE`` keeps every fault as JSON. Full and read-only
disks need root (they are mounted in memory) and are left out elsewhere, which the output says.
"""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests" / "faults"


def main() -> int:
    """Run the suite; its exit code."""
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
