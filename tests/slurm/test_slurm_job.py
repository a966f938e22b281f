"""Jobs of submit.sh on a real one-node SLURM."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import HOST, NO_GPU, job_of, log_of, submitted

from sft_cli.config.compose import compose, read_config
from sft_cli.config.paths import resolve

pytestmark = pytest.mark.slow

PRINTED = """\
job     {job}
run     {run}
log     {log}
follow  squeue -j {job}; tail -F {log_word}
cancel  scancel {job}
"""


@pytest.mark.parametrize("name", ["plain", 'it\'s 50%j of #1 "für" $HOME'])
def test_job_trains_in_the_run_directory(cluster, fake_sft, tmp_path, name):
    """Without quotes, sbatch, the shell or the pattern of the log would split the second name."""
    work = tmp_path / name
    work.mkdir()
    run = work / "runs" / "first"
    home = str(work / "home")
    shutil.copytree(resolve("builtin:quickstart/model"), work / "words")
    choices = ["run_name=my_run", "model.tokenizer=words", fake_sft]
    result = submitted(cluster, "run_dir=runs/first", *choices, cwd=work, SFT_HOME=home)
    job = job_of(result)
    log = f"{run}/slurm-{job}.log"
    assert result.stdout == PRINTED.format(job=job, run=run, log=log, log_word=shlex.quote(log))
    assert result.stderr == ""

    assert cluster.wait(job, 60) == "COMPLETED", log_of(run, job)
    assert (run / "called").read_text().splitlines() == [str(work), f"train --resume {run}", home, "1", "my_run"]
    assert log_of(run, job) == "trains\n"
    expected = compose([*NO_GPU, *choices])
    expected.model.tokenizer = str(work / "words")
    assert read_config(run / "config.yaml") == replace(expected, run_dir=str(run))


def test_script_in_the_run_directory_can_be_submitted_again(cluster, fake_sft, tmp_path):
    """The script works from any directory and without SFT_HOME in the environment."""
    result = submitted(cluster, "run_dir=x", fake_sft, cwd=tmp_path, SFT_HOME="/somewhere")
    assert cluster.wait(job_of(result), 60) == "COMPLETED"
    again = cluster.call("sbatch", "--parsable", str(tmp_path / "x" / "job.sbatch"), cwd=Path("/"))
    assert cluster.wait(again.stdout.strip(), 60) == "COMPLETED", again.stderr
    calls = (tmp_path / "x" / "called").read_text().splitlines()
    assert len(calls) == 10
    assert calls[:5] == calls[5:]


def test_requeued_job_keeps_its_log(cluster, fake_sft, tmp_path):
    result = submitted(cluster, "run_dir=x", fake_sft, cwd=tmp_path)
    job = job_of(result)
    assert cluster.wait(job, 60) == "COMPLETED"
    assert cluster.call("scontrol", "requeue", job).returncode == 0
    assert cluster.wait(job, 60) == "COMPLETED"
    assert log_of(tmp_path / "x", job) == "trains\ntrains\n"


def test_passed_variables_reach_the_job_but_no_file(cluster, tmp_path):
    tool = tmp_path / "bin" / "sft"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/bash\necho "${A_TOKEN-unset}" "${B_TOKEN-unset}" "$NCCL_DEBUG" "$HOME" "${HF_HOME-unset}"\n'
    )
    tool.chmod(0o755)
    variables = {"A_TOKEN": "hunter2", "B_TOKEN": "hunter3", "HF_HOME": "/hub", "HOME": str(tmp_path)}
    words = [
        "launcher.pass_env=[A_TOKEN]",
        "launcher.env.NCCL_DEBUG=INFO",
        f"launcher.setup='PATH={tool.parent}:$PATH'",
    ]
    result = submitted(cluster, "run_dir=x", *words, cwd=tmp_path, **variables)
    job, run = job_of(result), tmp_path / "x"
    assert cluster.wait(job, 60) == "COMPLETED"
    assert log_of(run, job) == f"hunter2 unset INFO {tmp_path} /hub\n"
    assert "hunter2" not in (run / "config.yaml").read_text() + (run / "job.sbatch").read_text() + result.stdout


def test_sbatch_accepts_every_option(cluster, fake_sft, tmp_path):
    words = ["launcher.constraint=tests", "launcher.account=team", "launcher.memory=100M", "launcher.cpus=2"]
    words += ["launcher.mail=me@host.example", "launcher.time=1-2:03:00", "launcher.signal_seconds=300"]
    result = submitted(cluster, "run_dir=x", *words, "launcher.partition=short", fake_sft, cwd=tmp_path)
    shown = cluster.job(job_of(result))
    assert result.stderr == ""
    expected = {
        "Features": "tests",
        "Account": "team",
        "MinMemoryNode": "100M",
        "CPUs/Task": "2",
        "MailUser": "me@host.example",
        "MailType": "END,FAIL,REQUEUE",
        "TimeLimit": "1-02:03:00",
        "Partition": "short",
        "Requeue": "1",
    }
    assert {name: shown[name] for name in expected} == expected


def test_two_nodes_with_two_gpus_run_four_processes(cluster, tmp_path):
    """Each process finds its rank, its GPU on its node, and the address of the first node."""
    tool = tmp_path / "bin" / "sft"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/bash\necho $SFT_RANKS $SLURM_PROCID $SLURM_NTASKS $SLURM_LOCALID $SLURM_NTASKS_PER_NODE "
        "$CUDA_VISIBLE_DEVICES $MASTER_ADDR $MASTER_PORT\n"
    )
    tool.chmod(0o755)
    words = ["launcher.nodes=2", "launcher.gpus=2", "launcher.partition=pair"]
    setup = f"launcher.setup='PATH={tool.parent}:$PATH'"
    job = job_of(submitted(cluster, *words, setup, "run_dir=x", cwd=tmp_path))
    assert cluster.wait(job, 60) == "COMPLETED", log_of(tmp_path / "x", job)
    assert sorted(log_of(tmp_path / "x", job).splitlines()) == [
        f"slurm {rank} 4 {rank % 2} 2 0,1 {HOST} {20000 + int(job) % 20000}" for rank in range(4)
    ]


def test_failing_setup_line_stops_the_job(cluster, tmp_path):
    result = submitted(cluster, "run_dir=x", 'launcher.setup="source nowhere/activate"', cwd=tmp_path)
    assert cluster.wait(job_of(result), 60) == "FAILED"
    assert log_of(tmp_path / "x", job_of(result)).endswith(": nowhere/activate: No such file or directory\n")


def test_shell_variables_do_not_override_the_config(cluster, fake_sft, tmp_path):
    """For sbatch, SBATCH_PARTITION overrides the script; SBATCH_EXPORT=NONE would hide PATH from srun."""
    shell_variables = {"SBATCH_PARTITION": "nowhere", "SBATCH_GPUS": "1", "SBATCH_EXPORT": "NONE"}
    arguments = ["launcher.partition=short", "run_dir=x", fake_sft]
    result = submitted(cluster, *arguments, cwd=tmp_path, **shell_variables)
    job = job_of(result)
    assert cluster.wait(job, 60) == "COMPLETED", log_of(tmp_path / "x", job)
    assert log_of(tmp_path / "x", job) == "trains\n"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        pytest.param(
            "launcher.partition=nowhere",
            "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified",
            id="partition",
        ),
        pytest.param("launcher.memory=lots", "Invalid --mem specification", id="memory"),
        pytest.param(
            "launcher.constraint=h100", "Batch job submission failed: Invalid feature specification", id="constraint"
        ),
    ],
)
@pytest.mark.parametrize("existing", [False, True], ids=["new-directory", "empty-directory"])
def test_refusal_by_sbatch_is_printed_and_leaves_no_files(cluster, tmp_path, override, reason, existing):
    if existing:
        (tmp_path / "x").mkdir()
    result = submitted(cluster, "run_dir=x", override, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"error: sbatch: refused the job: {reason}\n"
        "  fix: correct launcher.{partition,account,constraint,time,nodes,gpus,cpus,memory}, as in"
        " launcher.partition=NAME; sinfo lists partitions and their limits\n"
    )
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["x"] * existing
