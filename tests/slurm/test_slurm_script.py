"""Job scripts compared with golden files, and jobs that are refused.

``python -m tests.slurm.test_slurm_script`` rewrites the scripts in tests/golden/slurm; read the diff before you commit.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sft_cli.config.schema.config import Config, ModelConfig
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.config.schema.launcher import Auto, ContainerConfig, ContainerKind, LauncherConfig, LauncherKind
from sft_cli.errors import Mistakes, SftError
from sft_cli.slurm.script import ArrayJob, SubmissionContext, array_script, container_mounts, job_script, sbatch_word
from sft_cli.slurm.validate import validate_job

GOLDEN = Path(__file__).parents[1] / "golden" / "slurm"
PLAIN = SubmissionContext("/work", "/venv/bin", None)
PYXIS = ContainerConfig(kind=ContainerKind.pyxis, image="x", mounts=["/a:/b"])


def slurm(**launcher) -> LauncherConfig:
    return LauncherConfig(kind=LauncherKind.slurm, **launcher)


def config(**launcher) -> Config:
    return Config(launcher=slurm(**launcher))


def one_node() -> str:
    """Every setting of a job on one node, with values that need quotes."""
    launcher = slurm(
        partition="a100,h100",
        account="team 7",
        constraint="h100|a100",
        time="1-12:00:00",
        gpus=1,
        cpus=12,
        memory="32G",
        mail="me@host.example",
        signal_seconds=300,
        requeues=5,
        modules=["cuda/12.8", "gcc"],
        setup="source ~/venv/bin/activate",
        env={"NCCL_DEBUG": "it's $HOME"},
        pass_env=["HF_TOKEN", "WANDB_API_KEY"],
    )
    place = SubmissionContext("/home/me/my work", "/venv/bin", "/scratch/$me")
    return job_script(Config(run_name="alpaca_lora", launcher=launcher), '/data/my runs/50% of "x"', place)


def left_to_the_cluster() -> str:
    """No setting: one process without a GPU, and no signal before the time limit."""
    return job_script(config(gpus=0, signal_seconds=0, requeues=0), "/runs/x", PLAIN)


def several_nodes() -> str:
    """Two nodes of four GPUs: eight processes."""
    return job_script(config(nodes=2, gpus=4), "/runs/x", PLAIN)


def processes_without_gpus() -> str:
    """Two processes of a CPU job, followed by the other jobs of a chain."""
    return job_script(config(gpus=0, nproc=2, cpus=4, chain=3), "/runs/x", PLAIN)


def apptainer() -> str:
    container = ContainerConfig(kind=ContainerKind.apptainer, image="/images/sft.sif", mounts=["/data:/mnt/data"])
    return job_script(
        config(gpus=2, container=container), "/runs/my x", SubmissionContext("/work", "/venv/bin", "/sft")
    )


def pyxis() -> str:
    container = ContainerConfig(kind=ContainerKind.pyxis, image="nvcr.io#nvidia/pytorch:25.10-py3", mounts=["/data"])
    launcher = slurm(nodes=2, gpus=8, container=container, env={"NCCL_DEBUG": "INFO"}, pass_env=["HF_TOKEN"])
    return job_script(Config(launcher=launcher), "/runs/x", SubmissionContext("/work", "/venv/bin", "/sft"))


def array() -> str:
    runs = [Path("/sweeps/my lr/0"), Path("/sweeps/my lr/1")]
    return array_script(config(time="2:00:00"), ArrayJob(Path("/sweeps/my lr"), runs, 1), PLAIN)


SCRIPTS: dict[str, Callable[[], str]] = {
    "one_node": one_node,
    "left_to_the_cluster": left_to_the_cluster,
    "several_nodes": several_nodes,
    "processes_without_gpus": processes_without_gpus,
    "apptainer": apptainer,
    "pyxis": pyxis,
    "array": array,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_equals_its_golden_file(name):
    assert SCRIPTS[name]() == (GOLDEN / f"{name}.sbatch").read_text()


def test_every_golden_script_has_a_case():
    assert {file.stem for file in GOLDEN.iterdir()} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_valid_bash(name):
    """An unclosed quote would only be noticed on the node."""
    read = subprocess.run(["bash", "-n"], input=SCRIPTS[name](), capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


def test_user_variable_overrides_the_default():
    """OMP_NUM_THREADS is the number of cores per process unless it is set here or in the submitting shell."""
    ours, own, passed = (
        job_script(config(**launcher), "/runs/x", PLAIN)
        for launcher in ({"cpus": 3}, {"env": {"OMP_NUM_THREADS": "1"}}, {"pass_env": ["OMP_NUM_THREADS"]})
    )
    assert "export OMP_NUM_THREADS=3\n" in ours
    assert "export OMP_NUM_THREADS=1\n" in own
    assert "export OMP_NUM_THREADS" not in passed
    assert re.search(r"#SBATCH --export=\S+,OMP_NUM_THREADS\n", passed)


def test_container_mounts_are_listed_once():
    container = ContainerConfig(kind=ContainerKind.apptainer, image="x.sif", mounts=["/work", "/data:/mnt"])
    seen = container_mounts(slurm(container=container), SubmissionContext("/work", "/venv/bin", "/sft"), ["/runs/x"])
    assert seen == ["/work", "/data:/mnt", "/runs/x", "/sft"]


@pytest.mark.parametrize(
    ("kind", "mounted", "unseen"),
    [
        pytest.param(ContainerKind.none, None, [], id="no-container"),
        pytest.param(ContainerKind.pyxis, None, ["model.path", "data.mix.a.path"], id="nothing-mounted"),
        pytest.param(ContainerKind.pyxis, "/data", [], id="mounted"),
        pytest.param(ContainerKind.pyxis, "/data/models", ["data.mix.a.path"], id="one-mounted"),
        pytest.param(ContainerKind.pyxis, "/data:/mnt", ["model.path", "data.mix.a.path"], id="under-another-name"),
        pytest.param(ContainerKind.pyxis, "/disk:/data", [], id="under-this-name"),
        pytest.param(ContainerKind.pyxis, "/dat", ["model.path", "data.mix.a.path"], id="beginning-of-a-name"),
    ],
)
def test_paths_outside_container_mounts_are_reported(kind, mounted, unseen):
    """Paths in the working directory are visible; values that are not absolute paths are ignored."""
    container = ContainerConfig(kind=kind, image="x", mounts=[mounted] if mounted else [])
    here = SourceConfig(path="/work/rows.jsonl", validation_path="owner/name")
    data = DataConfig(mix={"a": SourceConfig(path="/data/a/rows.jsonl"), "b": here})
    wrong = Config(model=ModelConfig(path="/data/models/m"), data=data, launcher=slurm(container=container))
    found = []
    try:
        validate_job(wrong, {"run_dir": "/runs/x"}, PLAIN, {})
    except Mistakes as mistakes:
        found = [error.where for error in mistakes.errors]
    except SftError as error:
        found = [error.where]
    assert found == unseen


def test_apptainer_mounts_home_and_tmp_by_default():
    container = ContainerConfig(kind=ContainerKind.apptainer, image="x.sif")
    for path in (str(Path.home() / "m"), "/tmp/m"):
        validate_job(
            Config(model=ModelConfig(path=path), launcher=slurm(container=container)), {"run_dir": "/x"}, PLAIN, {}
        )


@pytest.mark.parametrize(
    ("value", "word"),
    [
        pytest.param("/runs/a-b_c/slurm-%j.log", "/runs/a-b_c/slurm-%j.log", id="plain"),
        pytest.param("me@host", "me@host", id="address"),
        pytest.param("two words", '"two words"', id="space"),
        pytest.param("it's", '"it\'s"', id="single-quote"),
        pytest.param('say "x"', '"say \\"x\\""', id="double-quote"),
        pytest.param("a\\b", '"a\\\\b"', id="backslash"),
        pytest.param("a#b", '"a#b"', id="comment-sign"),
        pytest.param("größe", "größe", id="letters-of-any-script"),
        pytest.param("", '""', id="empty"),
    ],
)
def test_directive_words_are_quoted(value, word):
    assert sbatch_word(value) == word


@pytest.mark.parametrize(
    ("wrong", "directory", "place", "message"),
    [
        pytest.param(
            Config(),
            "/runs/x",
            PLAIN,
            "launcher: launcher=local trains in this shell and submits no job\n"
            "  fix: type launcher=slurm, or sft train instead",
            id="local",
        ),
        pytest.param(
            config(gpus=0, nproc=Auto.auto),
            "/runs/x",
            PLAIN,
            "launcher.nproc: auto is one process per GPU, but launcher.gpus is 0\n"
            "  fix: write a number, such as launcher.nproc=2",
            id="auto-without-gpus",
        ),
        pytest.param(
            config(pass_env=["HF_TOKEN", "HOME", "OTHER"]),
            "/runs/x",
            PLAIN,
            "launcher.pass_env: HF_TOKEN, OTHER are not set in this shell\n"
            "  fix: export HF_TOKEN=…, or remove the name from launcher.pass_env",
            id="absent-variables",
        ),
        pytest.param(
            config(setup="true\n#SBATCH --exclusive"),
            "/runs/x",
            PLAIN,
            "launcher.setup: 'true\\n#SBATCH --exclusive' holds a line break or control character, "
            "which a job script cannot contain\n  fix: write it on one line, without control characters",
            id="line-break-in-setup",
        ),
        pytest.param(
            Config(run_name="a\nb", launcher=slurm(partition="p\r", env={"A": "\t"}, modules=["a", "b\n"])),
            "/runs/x",
            SubmissionContext("/work", "/venv/bin", "\x1b"),
            "run_name: 'a\\nb' holds a line break or control character, which a job script cannot contain\n"
            "  fix: write it on one line, without control characters\n"
            "launcher.partition: 'p\\r' holds a line break or control character, which a job script cannot contain\n"
            "  fix: write it on one line, without control characters\n"
            "launcher.modules: 'ab\\n' holds a line break or control character, which a job script cannot contain\n"
            "  fix: write it on one line, without control characters\n"
            "launcher.env.A: '\\t' holds a line break or control character, which a job script cannot contain\n"
            "  fix: write it on one line, without control characters\n"
            "SFT_HOME: '\\x1b' holds a line break or control character, which a job script cannot contain\n"
            "  fix: write it on one line, without control characters",
            id="all-at-once",
        ),
        pytest.param(
            config(),
            "/runs/a\\b",
            PLAIN,
            "run_dir: '/runs/a\\\\b' holds a backslash, after which sbatch does not expand the job id in the name"
            " of the log\n"
            "  fix: run_dir=/runs/a_b",
            id="backslash-in-run-dir",
        ),
        pytest.param(
            replace(config(container=PYXIS), model=ModelConfig(path="/models/m")),
            "/runs/x",
            PLAIN,
            "model.path: '/models/m' is outside of the mounts of the container\n"
            "  fix: launcher.container.mounts=[/models], or write its path inside the container",
            id="path-outside-of-the-container",
        ),
        pytest.param(
            config(container=PYXIS),
            "/runs/x:y",
            PLAIN,
            "launcher.container.mounts: '/runs/x:y' holds a comma or colon, which separate the mounts of a container\n"
            "  fix: rename the directory, or mount another one above it",
            id="colon-in-a-mount",
        ),
    ],
)
def test_invalid_jobs_are_refused(wrong, directory, place, message):
    with pytest.raises(SftError) as refused:
        validate_job(wrong, {"run_dir": directory}, place, {"HOME": "/home/me"})
    assert str(refused.value) == message


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, script in SCRIPTS.items():
        (GOLDEN / f"{name}.sbatch").write_text(script())
