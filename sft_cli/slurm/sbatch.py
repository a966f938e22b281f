"""The call of sbatch."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from sft_cli.errors import SftError

# A variable of the submitting shell wins over the #SBATCH line of the same meaning, and nobody would see it.
OVERRIDES_DIRECTIVE = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_EXPORT": "export",
    "SBATCH_GPUS": "gpus-per-node",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node",
    "SBATCH_GPUS_PER_SOCKET": "gpus-per-node",
    "SBATCH_GPUS_PER_TASK": "gpus-per-node",
    "SBATCH_GRES": "gpus-per-node",
    "SBATCH_JOB_NAME": "job-name",
    "SBATCH_MEM_PER_CPU": "mem",
    "SBATCH_MEM_PER_GPU": "mem",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_NO_REQUEUE": "requeue",
    "SBATCH_OPEN_MODE": "open-mode",
    "SBATCH_OUTPUT": "output",
    "SBATCH_PARTITION": "partition",
    "SBATCH_REQUEUE": "requeue",
    "SBATCH_SIGNAL": "signal",
    "SBATCH_TIMELIMIT": "time",
}
DECISIONS = ("gpus-per-node", "requeue", "signal", "array")
"""Directives whose absence is a decision, too."""


def require_sbatch() -> None:
    """Return where sbatch can be called.

    Raises:
        SftError: It is not on PATH.
    """
    if shutil.which("sbatch") is None:
        problem = "is not on PATH; this machine cannot submit to SLURM"
        fix = "run sft submit on the cluster's login node, or look at the job with --dry-run"
        raise SftError(where="sbatch", problem=problem, fix=fix)


def submit_script(script: Path, stated: Collection[str], options: Sequence[str] = ()) -> str:
    """Submit a script and return the job id; ``stated`` are the directives in it, ``options`` come before it."""
    decided = {*stated, *DECISIONS}
    environment = {name: value for name, value in os.environ.items() if OVERRIDES_DIRECTIVE.get(name) not in decided}
    command = ["sbatch", "--parsable", *options, str(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = [re.sub(r"^sbatch: (error: )?", "", line) for line in result.stderr.splitlines() if line.strip()]
    if result.returncode != 0:
        keys = "partition,account,constraint,time,nodes,gpus,cpus,memory"
        raise SftError(
            where="sbatch",
            problem="refused the job: " + "; ".join(said),
            fix=f"correct launcher.{{{keys}}}; sinfo lists partitions and their limits",
        )
    for line in said:
        print(f"sbatch: {line}", file=sys.stderr)
    return result.stdout.strip().split(";")[0]  # "17", or "17;cluster" where there are several
