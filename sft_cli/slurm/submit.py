"""Composes a run on the login node, writes its directory and submits it.

The job is ``sft train --resume RUN_DIR``: the trainer starts from RUN_DIR/config.yaml and resumes when the job is
requeued, when the next job of a chain begins, or when somebody submits RUN_DIR/job.sbatch again.
"""

import os
import shlex
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sft_cli.config.compose import compose, dump_config, recipe_chooses
from sft_cli.config.paths import absolute, default_run_dir
from sft_cli.config.rules.check import check_required
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.slurm.job_files import job_files, require_empty_run_dir
from sft_cli.slurm.preflight import check_inputs
from sft_cli.slurm.sbatch import require_sbatch, submit_script
from sft_cli.slurm.script import ArrayJob, SubmissionContext, array_script, job_script, sbatch_options
from sft_cli.slurm.validate import validate_job


def submission_context() -> SubmissionContext:
    """This shell's directory, this environment's ``sft``."""
    return SubmissionContext(os.getcwd(), sysconfig.get_path("scripts"), os.environ.get("SFT_HOME") or None)


def job_config(overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """The config of a job; ``launcher=slurm`` is implied where neither the overrides nor the recipe choose a launcher.

    Raises:
        SftError: Every mistake of the overrides and the recipe.
    """
    chosen = any(word.startswith("launcher=") for word in overrides) or recipe_chooses(
        "launcher", overrides, config_dirs
    )
    return compose(overrides if chosen else [*overrides, "launcher=slurm"], config_dirs)


def submit_job(config: Config, *, dry_run: bool) -> str:
    """Submit a run, and return where the job is and how to follow it; for a dry run, return the job script alone.

    Raises:
        SftError: The config, this machine or sbatch does not allow the job; nothing is left.
    """
    config = absolute(replace(config, run_dir=config.run_dir or str(default_run_dir(config.run_name))))
    assert config.run_dir is not None
    place = submission_context()
    check_required(config)
    validate_job(config, {"run_dir": config.run_dir}, place)
    require_empty_run_dir(Path(config.run_dir))
    check_inputs(config)
    script = job_script(config, config.run_dir, place)
    return script if dry_run else _describe_jobs(config.run_dir, submit_run(Path(config.run_dir), config, script))


def submit_run(run_dir: Path, config: Config, script: str) -> list[str]:
    """Write the run directory and submit the script in it; the ids of the chain's jobs, in their order."""
    require_sbatch()
    job, stated, ids = run_dir / "job.sbatch", sbatch_options(config, ""), []
    with job_files(run_dir, {"config.yaml": dump_config(config), "job.sbatch": script}, "run_dir"):
        ids.append(submit_script(job, stated))
    for _ in range(config.launcher.chain - 1):
        try:
            ids.append(submit_script(job, stated, [f"--dependency=afterany:{ids[-1]}"]))
        except SftError as error:
            raise SftError(
                where="launcher.chain",
                problem=f"job {' '.join(ids)} is submitted, but for the next one sbatch {error.problem}",
                fix=f"scancel {' '.join(ids)}, then submit a smaller launcher.chain; or let it run",
            ) from error
    return ids


def _describe_jobs(run_dir: str, ids: Sequence[str]) -> str:
    """Where the jobs are, and how to follow them."""
    logs = [f"{run_dir}/slurm-{job}.log" for job in ids]
    job, log, tail = " ".join(ids), f"{run_dir}/slurm-{ids[0]}.log", shlex.join(logs)
    then = f", then {len(ids) - 1} more" if len(ids) > 1 else ""
    return (
        f"job     {job}\nrun     {run_dir}\nlog     {log}{then}\n"
        f"follow  squeue -j {','.join(ids)}; tail -F {tail}\ncancel  scancel {job}\n"
    )


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
    require_sbatch()
    if config.launcher.chain > 1:
        problem = f"{config.launcher.chain}: the members of an array requeue themselves, and are not chained"
        raise SftError(where="launcher.chain", problem=problem, fix="leave launcher.chain out")
    place, array = submission_context(), ArrayJob(directory, runs, parallel)
    members = {f"member {number}": str(run) for number, run in enumerate(runs)}
    validate_job(config, {"the array's directory": str(directory), **members}, place)
    texts = {
        array.members.name: "".join(f"{run}\n" for run in runs),
        array.script.name: array_script(config, array, place),
    }
    with job_files(directory, texts, "directory"):
        return submit_script(array.script, [*sbatch_options(config, ""), "array"])
