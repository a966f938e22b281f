"""The quickstart trained by jobs of a one-node SLURM: single, in two tasks, and over a time limit."""

import os
import re
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest
from rounding import ROUNDING
from slurm_cluster import Cluster, job_of, log_of, losses, submit_sh, submitted, waited_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHORT = ["trainer.max_steps=30", "eval.compare_after_training=false", "eval.samples=0"]
STEPS = 600
"""More steps than an idle core does in the 35 s that the first life lasts at most."""
LONG = [
    "trainer.epochs=20",
    f"trainer.max_steps={STEPS}",
    "trainer.schedule=constant",
    "eval.compare_after_training=false",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the SFT_HOME of all tests in this file, so that the rows are prepared once."""
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def alone(home: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Return the losses of a run without SLURM on one thread, like a job with one core."""
    work = tmp_path_factory.mktemp("alone")
    command = [f"{sysconfig.get_path('scripts')}/sft", "train", "recipe=quickstart", *SHORT, "run_dir=here"]
    variables = os.environ | {"SFT_HOME": home, "OMP_NUM_THREADS": "1"}
    trained = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, timeout=400)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    return losses(work / "here")


def test_job_has_the_same_losses_as_training_without_slurm(cluster, alone, home, tmp_path):
    job = job_of(submitted(cluster, *SHORT, "run_dir=x", cwd=tmp_path, SFT_HOME=home))
    assert cluster.wait(job, 400) == "COMPLETED", log_of(tmp_path / "x", job)
    assert list(alone) == list(range(1, 31))
    assert losses(tmp_path / "x") == alone


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(["launcher.nproc=2"], id="on-one-node"),
        pytest.param(["launcher.nodes=2", "launcher.partition=pair"], id="on-two-nodes"),
    ],
)
def test_two_tasks_have_the_same_losses_as_one(cluster, alone, home, two, tmp_path):
    """Losses differ only by the order of summation over examples."""
    job = job_of(submitted(cluster, *SHORT, *two, "run_dir=x", cwd=tmp_path, SFT_HOME=home))
    assert cluster.wait(job, 400) == "COMPLETED", log_of(tmp_path / "x", job)
    assert "2 processes" in log_of(tmp_path / "x", job)
    assert losses(tmp_path / "x") == pytest.approx(alone, rel=1e-5 * ROUNDING)


def test_two_warned_tasks_save_together_and_resume(cluster, alone, home, tmp_path):
    """When the first task ends, srun kills the other, so both must have saved by then."""
    run = tmp_path / "x"
    job = job_of(submitted(cluster, *SHORT, "launcher.nproc=2", "run_dir=x", cwd=tmp_path, SFT_HOME=home))
    waited_for(lambda: (run / "metrics.jsonl").exists() and len(losses(run)) > 2, "three steps", 200)
    assert cluster.call("scancel", "--batch", "--signal=USR1", job).returncode == 0
    assert cluster.wait(job, 400) == "COMPLETED", log_of(run, job)
    saved = re.search(r"stopped   after step (\d+), saved", log_of(run, job))
    assert saved, log_of(run, job)
    assert f"resume    after step {saved[1]} of 30 " in log_of(run, job)
    assert cluster.job(job)["Restarts"] == "1"
    assert losses(run) == pytest.approx(alone, rel=1e-5 * ROUNDING)


def test_run_over_its_time_limit_equals_an_uninterrupted_one(cluster, home, tmp_path):
    """SLURM warns the job at a real limit of one minute; once the job has trained and requeued, the limit is raised.

    The uninterrupted run is a job on the other core.
    """
    words = ["recipe=quickstart", "launcher=slurm", "launcher.gpus=0", "launcher.cpus=1", *LONG]
    limited = ["launcher.time=1", "launcher.signal_seconds=25", "run_dir=limited"]
    variables = cluster.environment | {"SFT_HOME": home}
    whole = job_of(submit_sh(*words, "launcher.time=30", "run_dir=whole", cwd=tmp_path, **variables))
    job = job_of(submit_sh(*words, *limited, cwd=tmp_path, **variables))
    run = tmp_path / "limited"
    stopped_after = stopped(cluster, job, run)
    assert cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=30").returncode == 0
    assert cluster.wait(job, 600) == "COMPLETED", log_of(run, job)
    assert cluster.wait(whole, 600) == "COMPLETED", log_of(tmp_path / "whole", whole)

    assert 0 < stopped_after < STEPS
    assert int(cluster.job(job)["Restarts"]) >= 1
    assert f"resume    after step {stopped_after} of {STEPS} " in log_of(run, job)
    assert list(losses(run)) == list(range(1, STEPS + 1))
    assert losses(run) == losses(tmp_path / "whole")


def stopped(cluster: Cluster, job: str, run: Path) -> int:
    """Wait until the job has trained and requeued itself; return the number of steps done."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        pending = cluster.job(job)["JobState"] == "PENDING"
        if pending and (run / "metrics.jsonl").exists() and losses(run):
            return max(losses(run))
        cluster.hasten(job)
        time.sleep(0.5)
    raise TimeoutError(log_of(run, job))
