"""Becomes ``sft train --resume DIR``: ``python -m sft_cli.sweep.child PID DIR``, PID being the sweep's.

The run is asked to save and stop when the sweep dies, however that dies: nobody else would tell it.
"""

import os
import sys

from sft_cli.utils.processes import terminate_with_parent


def become_training() -> None:
    """Ask for the signal, then become the run."""
    sweep, run = sys.argv[1:]
    terminate_with_parent()
    if os.getppid() == int(sweep):  # otherwise it died before it could be asked for
        os.execv(sys.executable, [sys.executable, "-m", "sft_cli", "train", "--resume", run])


if __name__ == "__main__":
    become_training()
