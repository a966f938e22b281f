"""Several runs as one array job on a real one-node SLURM."""

from pathlib import Path

import pytest
from slurm_cluster import NO_GPU, Cluster, waited_for
from slurm_waits import begun, trainer, warn

from sft_cli.config.compose import compose, dump_config
from sft_cli.errors import SftError
from sft_cli.slurm.submit import submit_array


@pytest.fixture
def inside(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Set the directory and variables of a user on the login node, which a submission takes along."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SFT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return cluster


@pytest.mark.slow
def test_each_member_trains_its_run_within_the_parallel_limit(inside, fake_sft, tmp_path):
    runs = [tmp_path / f"member {number}" for number in range(3)]
    config = compose([*NO_GPU, fake_sft])
    for run in runs:
        run.mkdir()
        (run / "config.yaml").write_text(dump_config(config))
    directory = tmp_path / "the sweep"
    job = submit_array(directory, runs, config, 2)
    waited_for(lambda: not inside.call("squeue", "-h", "-j", job).stdout, "the array to end", 60)
    assert [(run / "called").read_text().splitlines()[1] for run in runs] == [f"train --resume {run}" for run in runs]
    assert [(directory / f"slurm-{job}_{number}.log").read_text() for number in range(3)] == ["trains\n"] * 3
    assert (directory / "members.txt").read_text().splitlines() == [str(run) for run in runs]
    assert "#SBATCH --array=0-2%2\n" in (directory / "array.sbatch").read_text()


@pytest.mark.slow
def test_warned_member_requeues_only_itself(inside, tmp_path):
    """The second task has the job id of the whole array, with which SLURM would requeue both tasks."""
    runs = [tmp_path / "a", tmp_path / "b"]
    config = compose([*NO_GPU, trainer(tmp_path, 1)])
    for run in runs:
        run.mkdir()
    directory = tmp_path / "sweep"
    job = submit_array(directory, runs, config, 2)
    members = [f"{job}_{number}" for number in range(2)]
    for member, run in zip(members, runs, strict=True):
        begun(inside, member, run)
    warn(inside, members[1])
    begun(inside, members[1], runs[1], 2)
    assert [inside.job(member)["Restarts"] for member in members] == ["0", "1"]
    assert inside.job(members[0])["JobState"] == "RUNNING"
    warn(inside, members[0])
    begun(inside, members[0], runs[0], 2)
    assert [inside.job(member)["Restarts"] for member in members] == ["1", "1"]
    waited_for(lambda: not inside.call("squeue", "-h", "-j", job).stdout, "the array to end", 60)
    for number in range(2):
        log = (directory / f"slurm-{job}_{number}.log").read_text()
        assert "slurm     stopped; requeued, time 1 of 100\n" in log
        assert log.endswith("finished\n")


@pytest.mark.slow
def test_refused_array_leaves_no_files(inside, tmp_path):
    config = compose([*NO_GPU, "launcher.partition=nowhere"])
    with pytest.raises(SftError, match="invalid partition specified: nowhere"):
        submit_array(tmp_path / "sweep", [tmp_path / "a"], config, 1)
    assert list(tmp_path.iterdir()) == []


def test_arrays_cannot_be_chained(tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/bash\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(SftError) as refused:
        submit_array(tmp_path / "sweep", [tmp_path / "a"], compose([*NO_GPU, "launcher.chain=2"]), 1)
    assert str(refused.value) == (
        "launcher.chain: 2: members of an array requeue themselves and cannot be chained\n  fix: launcher.chain=1"
    )
