"""Call sbatch."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from sft_cli.errors import SftError

# These variables of the submitting shell silently override the #SBATCH line of the same meaning.
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
"""Directives whose absence is intended, so that variables must not set them either."""


def require_sbatch() -> None:
    """Check that sbatch can be called.

    Raises:
        SftError: sbatch is not on PATH.
    """
    if shutil.which("sbatch") is None:
        problem = "is not on PATH; this machine cannot submit to SLURM"
        fix = "run sft submit on the cluster's login node, or print the job script with --dry-run"
        raise SftError(where="sbatch", problem=problem, fix=fix)


def submit_script(script: Path, stated: Collection[str], options: Sequence[str] = ()) -> str:
    """Submit a script and return the job id.

    ``stated`` are the directives in the script, ``options`` are passed to sbatch before it.
    """
    fixed = {*stated, *DECISIONS}
    environment = {name: value for name, value in os.environ.items() if OVERRIDES_DIRECTIVE.get(name) not in fixed}
    command = ["sbatch", "--parsable", *options, str(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    messages = [re.sub(r"^sbatch: (error: )?", "", line) for line in result.stderr.splitlines() if line.strip()]
    if result.returncode != 0:
        keys = "partition,account,constraint,time,nodes,gpus,cpus,memory"
        raise SftError(
            where="sbatch",
            problem="refused the job: " + "; ".join(messages),
            fix=f"correct launcher.{{{keys}}}, as in launcher.partition=NAME; sinfo lists partitions and their limits",
        )
    for line in messages:
        print(f"sbatch: {line}", file=sys.stderr)
    return result.stdout.strip().split(";")[0]  # "17", or "17;cluster" where there are several
