"""Check everything that needs a CUDA card, in eight minutes and without a network.

    python scripts/gpu_acceptance.py                     all checks, the most valuable first
    python scripts/gpu_acceptance.py --list              their names, time limits and what each requires
    python scripts/gpu_acceptance.py --only machine flex some of them
    python scripts/gpu_acceptance.py --dry               all of them on the simulated card, with small shapes

Each check is a process group with a time limit. None stops the others: a JSON line before and after each goes to stdout
and to ``results.jsonl`` in ``--out``, next to the logs. The exit code is 1 if a check failed or exceeded its limit.
``sft docs contributing`` explains the lines.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "bench"), str(HERE.parent)]

from acceptance.checks import CHECKS  # noqa: E402
from acceptance.runner import Runner, Task  # noqa: E402

BUDGET, DRY_BUDGET = 480.0, 5400.0
"""Seconds of all checks together: on a card, and on the simulator, whose limits are longer, too."""
SLOWER = 15
"""Time limits on the simulator, as a multiple of those on a card."""


def main() -> int:
    """Run the checks and return the exit code."""
    options = arguments()
    if options.list:
        for name, entry in CHECKS.items():
            print(f"{name:14} {entry.limit:4.0f} s  {entry.requires}")
        return 0
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(vars(signal)[name], lambda number, frame: sys.exit(128 + number))
    dry = ["--dry"] if options.dry else []
    python = [sys.executable, "-m", *(["tests.cuda_simulator"] if options.dry else [])]
    runner = Runner(
        options.out.resolve(),
        options.budget or (DRY_BUDGET if options.dry else BUDGET),
        lambda name, directory: [*python, "acceptance.check", name, str(directory), *dry],
        environment(options.out.resolve()),
    )
    return runner.run(selected(options.only, options.dry))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="NAME", default=list(CHECKS))
    parser.add_argument("--out", type=Path, help="directory of results.jsonl and the logs (a new temporary one)")
    parser.add_argument("--budget", type=float, help=f"seconds of all checks together ({BUDGET:.0f})")
    parser.add_argument("--dry", action="store_true", help="run on the simulated card, with small shapes")
    parser.add_argument("--list", action="store_true", help="list the checks")
    options = parser.parse_args()
    options.out = options.out or Path(tempfile.mkdtemp(prefix="gpu-acceptance-"))
    return options


def selected(names: list[str], dry: bool) -> list[Task]:
    """Return the tasks of these checks, and those in the background that they need, in the order of the table."""
    wanted = {*names, *(need for name in names for need in CHECKS[name].needs)}
    return [
        Task(name, entry.limit * (SLOWER if dry else 1), entry.background, entry.needs)
        for name, entry in CHECKS.items()
        if name in wanted
    ]


def environment(out: Path) -> dict[str, str]:
    """Return the environment of the checks: no network, and caches of their own that they share."""
    path = [str(HERE), str(HERE / "bench"), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "SFT_HOME": str(out / "home"),
        "TORCHINDUCTOR_CACHE_DIR": str(out / "inductor"),
        "TRITON_CACHE_DIR": str(out / "triton"),
    }


if __name__ == "__main__":
    sys.exit(main())
