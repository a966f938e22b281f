"""A sweep as an array job on a real one-node SLURM: submitted, inspected while running, ranked at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import NO_GPU, Cluster, waited_for

WORDS = [
    "recipe=quickstart",
    *NO_GPU,
    "trainer.max_steps=3",
    "eval.compare_after_training=false",
    "eval.samples=0",
    "--out",
    "s",
]


def sweep(cluster: Cluster, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``sft sweep`` on the login node."""
    environment = {**os.environ, **cluster.environment, "SFT_HOME": str(home)}
    command = [sys.executable, "-m", "sft_cli", "sweep", *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=250)


@pytest.mark.slow
def test_array_job_is_ranked_after_it_ends(cluster, tmp_path):
    """The target modules of the second member do not exist; the data are prepared before submission."""
    words = [*WORDS, "adapter.target_modules=[all-linear],[nothing]", "--parallel", "1"]
    submitted = sweep(cluster, tmp_path, *words)
    assert submitted.returncode == 0, submitted.stderr
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert f"submitted job {record['job']}, 2 tasks, 1 at a time\n" in submitted.stdout
    assert len(list((tmp_path / "prepared").iterdir())) == 1

    between = sweep(cluster, tmp_path, "--resume", "s")
    assert between.returncode == 0, between.stderr
    assert "waiting" in between.stdout

    waited_for(lambda: not cluster.call("squeue", "-h", "-j", record["job"]).stdout, "the array to end", 240)
    ended = sweep(cluster, tmp_path, "--resume", "s")
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout.startswith("sweep     s: 1 finished, 1 failed\n")
    assert "failed    002 target_modules=[nothing]: " in ended.stdout
    assert "again     sbatch --array=1 s/array.sbatch\n" in ended.stdout
    log = (tmp_path / "s" / f"slurm-{record['job']}_0.log").read_text()
    assert "is up to date" in log
    states = [member["state"] for member in json.loads((tmp_path / "s" / "sweep.json").read_text())["members"]]
    assert states == ["finished", "failed"]


@pytest.mark.slow
def test_refused_array_leaves_no_sweep_directory(cluster, tmp_path):
    refused = sweep(cluster, tmp_path, *WORDS, "trainer.lr=1e-3,2e-3", "launcher.partition=nowhere")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "nowhere" in refused.stderr
    assert not (tmp_path / "s").exists()
