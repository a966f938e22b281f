"""Rules of the keys of ``launcher``: time limits, secrets, chains."""

import pytest

from sft_cli.config.compose import compose
from sft_cli.config.rules.launcher import check_launcher_keys
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import LauncherConfig, LauncherKind
from sft_cli.errors import SftError

SLURM = ("recipe=quickstart", "launcher=slurm")


def problems(**launcher) -> list[str]:
    """Return the errors of the rules for a launcher."""
    config = Config(launcher=LauncherConfig(kind=LauncherKind.slurm, **launcher))
    return [mistake.problem for mistake in check_launcher_keys(config)]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("3", 180),
        ("3:20", 200),
        ("1:00:05", 3605),
        ("1-2", 93600),
        ("1-2:03", 93780),
        ("1-2:03:04", 93784),
    ],
)
def test_job_with_a_signal_before_its_start_is_refused(limit, seconds):
    """The signal must be sent at least one second after the start; limits have each format of sbatch."""
    assert problems(time=limit, signal_seconds=seconds - 1) == []
    assert problems(time=limit, signal_seconds=seconds) == [
        f"launcher.signal_seconds is {seconds}, but launcher.time is only {seconds} seconds: "
        "the job would stop as soon as it begins"
    ]


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "wandb_api_key", "MY_SECRET", "PGPASSWORD", "APIKEY"])
def test_secrets_must_be_passed_by_name(name):
    with pytest.raises(SftError) as refused:
        compose([*SLURM, f"launcher.env.{name}=hunter2"])
    assert str(refused.value) == (
        f"command line: launcher.env.{name} looks like a secret, and would be written into the "
        f"run directory\n  fix: export it in the submitting shell, and pass only its name: launcher.pass_env=[{name}]"
    )


def test_address_with_a_password_is_a_secret_under_any_name():
    assert problems(env={"https_proxy": "http://me:hunter2@proxy:3128"}) == [
        "launcher.env.https_proxy looks like a secret, and would be written into the run directory"
    ]


def test_secret_in_the_setup_line_is_refused():
    """Values from other commands or variables at run time are not in the file."""
    assert problems(setup="export HF_TOKEN=hf_abc WANDB_API_KEY='k' && source a=b") == [
        "launcher.setup sets HF_TOKEN, which looks like a secret, and would be written into the run directory",
        "launcher.setup sets WANDB_API_KEY, which looks like a secret, and would be written into the run directory",
    ]
    assert problems(setup='export HF_TOKEN="$(cat ~/.token)" MY_KEY=$OTHER TOKENIZERS_PARALLELISM=false') == []


def test_other_variables_are_accepted():
    env = {"TOKENIZERS_PARALLELISM": "false", "NCCL_DEBUG": "INFO", "http_proxy": "http://proxy:3128"}
    config = compose([*SLURM, *(f"launcher.env.{name}='{value}'" for name, value in env.items())])
    assert config.launcher.env == env


def test_variable_in_env_and_pass_env_is_refused():
    assert problems(env={"A": "1"}, pass_env=["A", "B"]) == [
        "launcher.env.A has a value, and launcher.pass_env also takes A from the submitting shell"
    ]


def test_chained_jobs_do_not_requeue_themselves():
    with pytest.raises(SftError, match=r"launcher\.requeues would have no effect: the next job of launcher\.chain"):
        compose([*SLURM, "launcher.chain=2", "launcher.requeues=3"])


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("distributed=deepspeed", "write distributed=fsdp; "),
        ("distributed=zero2", "write distributed=fsdp_zero2; "),
        ("distributed.kind=deepspeed", "did you mean distributed.kind=fsdp? choose one of ddp, fsdp"),
        ("launcher.nproc=many", "write a whole number of at least 1, or remove launcher.nproc (default: 1)"),
    ],
)
def test_launcher_keys_of_other_tools_suggest_ours(word, fix):
    with pytest.raises(SftError) as caught:
        compose(["recipe=quickstart", word])
    assert caught.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["trainer.optimizer=muon", "adapter=none"], "muon, which cannot update the tensor shards"),
        (["trainer.optimizer=adamw_8bit"], "adamw_8bit, which cannot update the tensor"),
        (["trainer.dtype=float16"], "float16, whose scaled gradients"),
        (["quant=int8"], "int8, whose weights and scales cannot be sharded"),
        (["adapter=none", "loss.kl=0.1"], "loss.kl needs a frozen copy"),
    ],
)
def test_settings_that_cannot_be_sharded_are_refused(words, problem):
    with pytest.raises(SftError, match=problem):
        compose(["recipe=quickstart", "distributed=fsdp", *words])
