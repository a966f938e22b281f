"""submit.sh as a user calls it, up to the call of sbatch."""

import os
import re
from pathlib import Path

import pytest
from slurm_cluster import submit_sh

from sft_cli.errors import SftError
from sft_cli.slurm.job_files import job_files


def test_dry_run_prints_the_script_and_writes_nothing(tmp_path):
    overrides = ["recipe=quickstart", "launcher=slurm", "launcher.gpus=0", "run_dir=runs/x"]
    result = submit_sh(*overrides, "--dry-run", cwd=tmp_path, SFT_HOME="")
    assert (result.returncode, result.stderr) == (0, "")
    assert "#SBATCH --job-name=quickstart\n" in result.stdout
    assert (
        f" --cpus-per-task=8 --kill-on-bad-exit=1 --export=ALL sft train --resume {tmp_path}/runs/x &\n"
        in result.stdout
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_recipes_in_a_given_directory_are_found(tmp_path):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").write_text("# @package _global_\ndefaults: [quickstart]\nrun_name: from_mine\n")
    result = submit_sh("recipe=mine", "-d", "../elsewhere", "launcher=slurm", "--dry-run", cwd=work)
    assert "#SBATCH --job-name=from_mine\n" in result.stdout, result.stderr


def test_submission_does_not_import_torch(tmp_path):
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise AssertionError('{name} is imported')\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    result = submit_sh("recipe=quickstart", "launcher=slurm", "--dry-run", cwd=tmp_path, PYTHONPATH=path)
    assert (result.returncode, result.stderr) == (0, "")


def test_each_mistake_is_one_error_with_exit_code_2(tmp_path):
    wrong = ["launcher.gpus=0", "launcher.nproc=auto"]
    result = submit_sh("recipe=quickstart", "launcher=slurm", *wrong, cwd=tmp_path, SFT_HOME="a\nb")
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.sub(r"quickstart-[0-9-]+", "quickstart-DATE", result.stderr) == (
        "error: launcher.nproc: auto is one process per GPU, but launcher.gpus is 0\n"
        "  fix: write a number, such as launcher.nproc=2\n"
        f"error: run_dir: '{tmp_path}/a\\nb/runs/quickstart-DATE' holds a line break or control character, "
        "which a job script cannot contain\n"
        "  fix: write it on one line, without control characters\n"
        "error: SFT_HOME: 'a\\nb' holds a line break or control character, which a job script cannot contain\n"
        "  fix: write it on one line, without control characters\n"
    )


def test_submit_defaults_to_launcher_slurm(tmp_path):
    """The command line or the recipe may set keys of the launcher without choosing the launcher."""
    result = submit_sh("recipe=quickstart", "launcher.partition=gpu", "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "#SBATCH --partition=gpu\n" in result.stdout
    (tmp_path / "configs/launcher").mkdir(parents=True)
    (tmp_path / "configs/launcher/mine.yaml").write_text("kind: slurm\npartition: mine\n")
    (tmp_path / "mine.yaml").write_text("defaults: [quickstart, {override /launcher: mine}]\n")
    for words in (["recipe=mine.yaml"], ["recipe=quickstart", "launcher=mine"]):
        result = submit_sh(*words, "--dry-run", cwd=tmp_path)
        assert "#SBATCH --partition=mine\n" in result.stdout, result.stderr


@pytest.mark.slow
def test_local_launcher_cannot_be_submitted(tmp_path):
    result = submit_sh("recipe=quickstart", "launcher=local", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "error: launcher: launcher=local trains in this shell and submits no job\n"
        "  fix: type launcher=slurm, or sft train instead\n"
    )


def test_config_that_cannot_train_is_refused_on_submission(tmp_path):
    result = submit_sh("launcher=slurm", "data=local", "data.mix.local.path=x.jsonl", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "error: model.path: no model is named\n"
        "  fix: add model.path=DIR_OR_HUB_ID, or start from a recipe (list them: sft recipes)\n"
    )


@pytest.mark.slow
def test_missing_inputs_are_refused_on_submission(tmp_path):
    """Missing rows, missing held-out rows and a template without a stop token are reported together."""
    (tmp_path / "here.jsonl").write_text("{}\n")
    (tmp_path / "mine.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    words = ["data=local", "data.mix.local.path=her.jsonl", "data.mix.more.path=here.jsonl", "template.path=mine.jinja"]
    words += ["data.mix.more.validation_path=there.jsonl"]
    result = submit_sh("recipe=quickstart", "launcher=slurm", *words, "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    errors = [line.partition(" ")[2] for line in result.stderr.splitlines() if line.startswith("error")]
    assert errors == [
        f"template {tmp_path}/mine.jinja: the answer ends in 'Hello', not in a special token of the tokenizer: "
        "the model would never learn to stop",
        "data.mix.local.path: 'her.jsonl' does not exist",
        "data.mix.more.validation_path: 'there.jsonl' does not exist",
    ]


def test_container_with_renamed_directories_is_not_checked(tmp_path):
    container = ["launcher.container.kind=apptainer", "launcher.container.image=x.sif"]
    words = ["data=local", "data.val_rows=5", "data.mix.local.path=/mnt/rows.jsonl", *container]
    for mounts, code in (("[/data]", 2), ("[/data:/mnt]", 0)):
        mounted = f"launcher.container.mounts={mounts}"
        result = submit_sh("recipe=quickstart", "launcher=slurm", *words, mounted, "--dry-run", cwd=tmp_path)
        assert result.returncode == code, result.stderr


def test_missing_sbatch_is_reported(tmp_path):
    result = submit_sh("recipe=quickstart", "launcher=slurm", "run_dir=x", cwd=tmp_path, PATH=without_sbatch(tmp_path))
    assert result.returncode == 2
    assert result.stderr == (
        "error: sbatch: is not on PATH; this machine cannot submit to SLURM\n"
        "  fix: run sft submit on the cluster's login node, or print the job script with --dry-run\n"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_chain_refused_halfway_names_submitted_jobs(tmp_path):
    """This sbatch accepts one job and refuses the next, as a limit on the number of jobs would."""
    tool = tmp_path / "tools" / "sbatch"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/bash\ncase "$*" in *--dependency=afterany:7*)'
        ' echo "sbatch: error: Job violates policy limit" >&2; exit 1;; esac\necho 7\n'
    )
    tool.chmod(0o755)
    words = ["recipe=quickstart", "launcher=slurm", "launcher.chain=2", "run_dir=x"]
    result = submit_sh(*words, cwd=tmp_path, PATH=f"{tool.parent}:{os.environ['PATH']}")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: launcher.chain: job 7 is submitted, but for the next one sbatch refused the job: "
        "Job violates policy limit\n"
        "  fix: scancel 7, then submit a smaller launcher.chain; or let it run\n"
    )
    assert (tmp_path / "x" / "config.yaml").exists()


def without_sbatch(tmp_path: Path) -> str:
    """Return a PATH with only the programs that submit.sh calls."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    return str(tools)


def test_environment_without_sft_cli_is_reported(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\nexit 1\n")
    python.chmod(0o755)
    result = submit_sh("recipe=quickstart", "launcher=slurm", cwd=tmp_path, PYTHON=str(python))
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {python}: cannot import sft_cli\n  fix: activate the environment of sft_cli, or set PYTHON\n"
    )


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        pytest.param(
            ["config.yaml", "job.sbatch"],
            "sbatch {x}/job.sbatch resumes it; run_dir=DIR starts another run",
            id="a-submitted-run",
        ),
        pytest.param(["config.yaml"], "run_dir=DIR starts another run", id="a-local-run"),
    ],
)
def test_used_run_directory_is_refused(tmp_path, files, fix):
    x = tmp_path / "x"
    x.mkdir()
    for name in files:
        (x / name).write_text("kept")
    result = submit_sh("recipe=quickstart", "launcher=slurm", "run_dir=x", "--dry-run", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: {x}: the directory exists and is not empty\n  fix: {fix.format(x=x)}\n"
    assert {path.name: path.read_text() for path in x.iterdir()} == dict.fromkeys(files, "kept")


def test_run_directory_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(SftError)
    with refused as caught, job_files(tmp_path / "file" / "run", {"config.yaml": ""}, "run_dir"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/file/run: cannot be written: Not a directory\n  fix: run_dir=DIR on a disk that you can write to"
    )


def test_modules_in_the_working_directory_are_not_imported(tmp_path):
    (tmp_path / "argparse.py").write_text("raise AssertionError('the working directory is searched for modules')\n")
    result = submit_sh("recipe=quickstart", "launcher=slurm", "--dry-run", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
