"""Becomes ``sft train run=DIR``: ``python -m sft_cli.sweep.child PID DIR``, PID being the sweep's.

The run is asked to save and stop when the sweep dies, however that dies: nobody else would tell it.
"""

import ctypes
import os
import signal
import sys

PARENT_DIED = 1
"""Linux's PR_SET_PDEATHSIG; it stays set when the process becomes another program."""


def main() -> None:
    """Ask for the signal, then become the run."""
    sweep, run = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM)
    if os.getppid() == int(sweep):  # otherwise it died before it could be asked for
        os.execv(sys.executable, [sys.executable, "-m", "sft_cli", "train", f"run={run}"])


if __name__ == "__main__":
    main()
