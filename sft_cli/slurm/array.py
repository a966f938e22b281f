"""Several runs as one array job, a few at a time."""

from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.slurm.job_files import written
from sft_cli.slurm.sbatch import refuse_absent, sbatch
from sft_cli.slurm.script import Array, array_script, directives
from sft_cli.slurm.submit import here
from sft_cli.slurm.validate import check


def submit_array(directory: Path, runs: Sequence[Path], config: Config, parallel: int) -> str:
    """Submit an array job whose task i trains ``runs[i]``; the job id.

    A member that is preempted or meets its time limit requeues itself alone. Logs: ``directory/slurm-<job>_<i>.log``.

    Args:
        directory: Gets ``array.sbatch`` and ``members.txt``; absolute.
        runs: Run directories that hold their config.yaml; absolute, at least one.
        config: Whose ``launcher`` each task gets, and whose ``run_name`` names the job.
        parallel: Most tasks that run at once.

    Raises:
        SftError: What cannot be a job, or what sbatch refused; then neither file stays.
    """
    refuse_absent()
    if config.launcher.chain > 1:
        problem = f"{config.launcher.chain}: the members of an array requeue themselves, and are not chained"
        raise SftError(where="launcher.chain", problem=problem, fix="leave launcher.chain out")
    place, array = here(), Array(directory, runs, parallel)
    members = {f"member {number}": str(run) for number, run in enumerate(runs)}
    check(config, {"the array's directory": str(directory), **members}, place)
    texts = {
        array.members.name: "".join(f"{run}\n" for run in runs),
        array.script.name: array_script(config, array, place),
    }
    with written(directory, texts, "directory"):
        return sbatch(array.script, [*directives(config, ""), "array"])
