"""Process of one member: ``python -m sft_cli.sweep.child PID DIR`` becomes ``sft train --resume DIR``.

PID is the process of the sweep. The run receives SIGTERM, so that it saves and stops, if the sweep dies.
"""

import os
import sys

from sft_cli.utils.processes import terminate_with_parent


def become_training() -> None:
    """Request SIGTERM at the death of the sweep, then replace this process by the run."""
    sweep, run = sys.argv[1:]
    terminate_with_parent()
    if os.getppid() == int(sweep):  # otherwise the sweep died before the request
        os.execv(sys.executable, [sys.executable, "-m", "sft_cli", "train", "--resume", run])


if __name__ == "__main__":
    become_training()
