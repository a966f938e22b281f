"""Compose a run on the login node, write its directory and submit it.

The job is ``sft train --resume RUN_DIR``: the trainer starts from RUN_DIR/config.yaml and resumes when the job is
requeued, when the next job of a chain starts, or when RUN_DIR/job.sbatch is submitted again.
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
    """Return this shell's working directory, the directory of this environment's ``sft``, and ``SFT_HOME``."""
    return SubmissionContext(os.getcwd(), sysconfig.get_path("scripts"), os.environ.get("SFT_HOME") or None)


def job_config(overrides: Sequence[str], config_dirs: Sequence[str]) -> Config:
    """Return the config of a job; ``launcher=slurm`` is the default unless overrides or recipe set a launcher.

    Raises:
        SftError: Every mistake in the overrides and the recipe.
    """
    chosen = any(word.startswith("launcher=") for word in overrides) or recipe_chooses(
        "launcher", overrides, config_dirs
    )
    return compose(overrides if chosen else [*overrides, "launcher=slurm"], config_dirs)


def submit_job(config: Config, *, dry_run: bool) -> str:
    """Submit a run, and return its job id, log and commands; for a dry run, only return the job script.

    Raises:
        SftError: The config, this machine or sbatch does not allow the job; no files remain.
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
    """Write the run directory, submit the script in it, and return the ids of the chain's jobs in order."""
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
    """Return job ids, logs, and the commands to follow and cancel the jobs."""
    logs = [f"{run_dir}/slurm-{job}.log" for job in ids]
    job, log, tail = " ".join(ids), f"{run_dir}/slurm-{ids[0]}.log", shlex.join(logs)
    then = f", then {len(ids) - 1} more" if len(ids) > 1 else ""
    return (
        f"job     {job}\nrun     {run_dir}\nlog     {log}{then}\n"
        f"follow  squeue -j {','.join(ids)}; tail -F {tail}\ncancel  scancel {job}\n"
    )


def submit_array(directory: Path, runs: Sequence[Path], config: Config, parallel: int) -> str:
    """Submit an array job whose task i trains ``runs[i]``, and return the job id.

    A member that is preempted or reaches its time limit requeues only itself. Logs: ``directory/slurm-<job>_<i>.log``.

    Args:
        directory: Absolute path for ``array.sbatch`` and ``members.txt``.
        runs: Absolute run directories that contain a config.yaml; at least one.
        config: Config with the ``launcher`` of each task and the ``run_name`` of the job.
        parallel: Most tasks that run at once.

    Raises:
        SftError: The job is invalid, or sbatch refused it; neither file remains.
    """
    require_sbatch()
    if config.launcher.chain > 1:
        problem = f"{config.launcher.chain}: members of an array requeue themselves and cannot be chained"
        raise SftError(where="launcher.chain", problem=problem, fix="launcher.chain=1")
    place, array = submission_context(), ArrayJob(directory, runs, parallel)
    members = {f"member {number}": str(run) for number, run in enumerate(runs)}
    validate_job(config, {"the array's directory": str(directory), **members}, place)
    texts = {
        array.members.name: "".join(f"{run}\n" for run in runs),
        array.script.name: array_script(config, array, place),
    }
    with job_files(directory, texts, "directory"):
        return submit_script(array.script, [*sbatch_options(config, ""), "array"])
