"""``sft doctor``: checks of this machine."""

import pytest

from sft_cli.check.doctor import directory_check, secrets_check, slurm_check, version_checks
from sft_cli.check.torch_checks import devices


def test_versions_are_checked_against_installed_metadata(monkeypatch):
    """The environment of the tests passes; a missing or untested version is named with a pip command."""
    from importlib.metadata import PackageNotFoundError

    from sft_cli.check import doctor

    assert {line.status.value for line in version_checks()} == {"ok"}
    real = doctor.version

    def other(name):
        if name == "peft":
            raise PackageNotFoundError(name)
        return "9.0" if name == "torch" else real(name)

    monkeypatch.setattr(doctor, "version", other)
    failed = [line for line in version_checks() if line.status.value == "fail"]
    assert [(line.text, line.fix) for line in failed] == [
        ("torch 9.0 is outside of the tested range <2.14,>=2.11", "pip install 'torch<2.14,>=2.11'"),
        ("peft is missing", "pip install 'peft<0.22,>=0.21'"),
    ]


def test_python_is_checked_against_the_metadata(monkeypatch):
    from sft_cli.check import doctor

    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.14.1")
    line = next(iter(version_checks()))
    assert (line.status.value, line.text) == ("fail", "3.14.1 is outside of <3.13,>=3.11")


def test_no_secret_is_shown():
    line = secrets_check({"HF_TOKEN": "hf_verysecret"})
    assert line.text.startswith("HF_TOKEN set; gated models need HF_TOKEN")
    assert "verysecret" not in str(line)


def test_slurm_check_names_missing_commands(monkeypatch):
    from sft_cli.check import doctor

    found = {"sbatch": "/bin/sbatch"}
    monkeypatch.setattr(doctor.shutil, "which", found.get)
    assert slurm_check().text == "sbatch found, srun, squeue, scancel not"
    found.clear()
    assert slurm_check().status.value == "ok"


def test_unwritable_home_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("")
    line = directory_check("SFT_HOME", tmp_path / "file" / "home", "SFT_HOME")
    assert (line.status.value, line.fix) == ("fail", "export SFT_HOME=DIR that you may write to")


@pytest.mark.slow
def test_four_bit_round_trip():
    assert devices.four_bit_check().status.value == "ok"


@pytest.mark.slow
def test_two_processes_can_connect():
    assert devices.rendezvous_check().text == "two processes connected over gloo on 127.0.0.1"


@pytest.mark.slow
def test_processes_that_cannot_connect_are_a_failure(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere")
    line = devices.rendezvous_check()
    assert line.status.value == "fail"
    assert line.text.startswith("two processes do not connect: ")
