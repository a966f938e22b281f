"""A job stopped by its time limit, a preemption, or its owner, on a real one-node SLURM."""

from pathlib import Path

import pytest
from slurm_cluster import job_of, log_of, submitted, waited_for
from slurm_waits import begun, trainer, warn

pytestmark = pytest.mark.slow


@pytest.fixture
def waiting(tmp_path: Path) -> str:
    """A launcher.setup line for a trainer that finishes in its second life."""
    return trainer(tmp_path, 1)


def messages(run: Path, job: str) -> list[str]:
    """Return what trainer and script printed in all lives, without the messages of srun and bash about signals."""
    ours = ("saved", "slurm   ", "finished", "error")
    return [line for line in log_of(run, job).splitlines() if line.startswith(ours)]


def test_warned_job_saves_requeues_and_resumes(cluster, waiting, tmp_path):
    run = tmp_path / "x"
    job = job_of(submitted(cluster, "run_dir=x", waiting, cwd=tmp_path))
    begun(cluster, job, run)
    warn(cluster, job)
    assert cluster.wait(job, 60) == "COMPLETED", log_of(run, job)
    assert cluster.job(job)["Restarts"] == "1"
    assert messages(run, job) == ["saved after USR1", "slurm     stopped; requeued, time 1 of 100", "finished"]


def test_job_after_its_last_requeue_prints_how_to_resume(cluster, tmp_path):
    run = tmp_path / "x"
    job = job_of(submitted(cluster, "run_dir=x", "launcher.requeues=1", trainer(tmp_path, 9), cwd=tmp_path))
    for life in (1, 2):
        begun(cluster, job, run, life)
        warn(cluster, job)
    assert cluster.wait(job, 60) == "FAILED"
    assert messages(run, job) == [
        "saved after USR1",
        "slurm     stopped; requeued, time 1 of 1",
        "saved after USR1",
        f"slurm     stopped, and not requeued (launcher.requeues); to resume: sbatch {run}/job.sbatch",
    ]


def test_preempted_job_resumes_after_the_urgent_job(cluster, waiting, tmp_path):
    """SLURM sends SIGTERM to the steps but not to the script, and kills both after the grace period."""
    run = tmp_path / "x"
    job = job_of(submitted(cluster, "run_dir=x", "launcher.cpus=2", waiting, cwd=tmp_path))
    begun(cluster, job, run)
    urgent = cluster.call("sbatch", "--parsable", "-p", "urgent", "-c2", "-o/dev/null", "--wrap=true").stdout.strip()
    assert cluster.wait(urgent, 90) == "COMPLETED"
    assert cluster.wait(job, 60) == "COMPLETED", log_of(run, job)
    assert messages(run, job) == ["saved after TERM", "slurm     stopped; requeued, time 1 of 100", "finished"]


def test_job_preempted_without_grace_is_requeued_by_slurm(cluster, waiting, tmp_path):
    """If the script requeued the job too, it would start twice or be held."""
    run = tmp_path / "x"
    words = ["launcher.cpus=2", "launcher.partition=loose"]
    job = job_of(submitted(cluster, "run_dir=x", *words, waiting, cwd=tmp_path))
    begun(cluster, job, run)
    urgent = cluster.call("sbatch", "--parsable", "-p", "urgent", "-c2", "-o/dev/null", "--wrap=true").stdout.strip()
    assert cluster.wait(urgent, 90) == "COMPLETED"
    assert cluster.wait(job, 60) == "COMPLETED", log_of(run, job)
    assert messages(run, job)[-1] == "finished"
    assert not any(line.startswith("slurm") for line in messages(run, job))
    assert (run / "lives").read_text() == "life\n" * 2


def test_warning_before_training_requeues_the_job(cluster, tmp_path):
    """The signal arrives during the setup line: the job finishes the line and is requeued without training."""
    run = tmp_path / "x"
    ready = trainer(tmp_path, 0).replace('setup="', f'setup="touch {tmp_path}/begun; sleep 3; ')
    job = job_of(submitted(cluster, "run_dir=x", ready, cwd=tmp_path))
    waited_for((tmp_path / "begun").exists, "the job to begin", 60)
    warn(cluster, job)
    assert cluster.wait(job, 60) == "COMPLETED", log_of(run, job)
    assert messages(run, job) == ["slurm     stopped; requeued, time 1 of 100", "finished"]
    assert (run / "lives").read_text() == "life\n"


def test_cancelled_job_is_not_requeued(cluster, waiting, tmp_path):
    run = tmp_path / "x"
    job = job_of(submitted(cluster, "run_dir=x", waiting, cwd=tmp_path))
    begun(cluster, job, run)
    assert cluster.call("scancel", job).returncode == 0
    assert cluster.wait(job, 60) == "CANCELLED"
    waited_for(lambda: not cluster.call("squeue", "-h", "-j", job).stdout, "the job to leave the queue", 30)
    assert "requeued" not in log_of(run, job)
    assert (run / "lives").read_text() == "life\n"


def test_failed_job_is_not_requeued(cluster, tmp_path):
    script = tmp_path / "bin" / "sft"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\necho 'error: data: wrong'\nexit 2\n")
    script.chmod(0o755)
    setup = f'launcher.setup="export PATH={script.parent}:$PATH"'
    job = job_of(submitted(cluster, "run_dir=x", setup, cwd=tmp_path))
    assert cluster.wait(job, 60) == "FAILED"
    assert cluster.job(job)["ExitCode"] == "2:0"
    assert messages(tmp_path / "x", job) == ["error: data: wrong"]


def test_next_job_of_a_chain_resumes(cluster, tmp_path):
    run = tmp_path / "x"
    result = submitted(cluster, "run_dir=x", "launcher.chain=3", trainer(tmp_path, 1), cwd=tmp_path)
    first, second, third = result.stdout.splitlines()[0].split()[1:]
    assert result.stdout == (
        f"job     {first} {second} {third}\nrun     {run}\nlog     {run}/slurm-{first}.log, then 2 more\n"
        f"follow  squeue -j {first},{second},{third}; "
        f"tail -F {run}/slurm-{first}.log {run}/slurm-{second}.log {run}/slurm-{third}.log\n"
        f"cancel  scancel {first} {second} {third}\n"
    )
    begun(cluster, first, run)
    assert cluster.job(second)["Dependency"].startswith(f"afterany:{first}")
    warn(cluster, first)
    assert [cluster.wait(job, 60) for job in (first, second, third)] == ["FAILED", "COMPLETED", "COMPLETED"]
    assert messages(run, first) == [
        "saved after USR1",
        f"slurm     stopped; the next job of the chain resumes it; after the last one: sbatch {run}/job.sbatch",
    ]
    assert [log_of(run, job) for job in (second, third)] == ["finished\n"] * 2
