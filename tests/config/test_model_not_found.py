"""Fixes for models and files that do not exist."""

import errno
import os

import pytest

from sft_cli import error_boundary
from sft_cli.config.model_files.not_found import suggest_directory, suggest_hub_fix

CHECK = "check the path, or name a hub id such as Qwen/Qwen2.5-0.5B"


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "models/qwen-tiny").mkdir(parents=True)
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("models/qwen-tny", "did you mean model.path=models/qwen-tiny?"),
        ("modles/qwen-tiny", "did you mean model.path=models/qwen-tiny?"),
        ("./models/gpt2", CHECK),
        ("quickstart/model", "did you mean model.path=builtin:quickstart/model?"),
        ("nowhere/at/all", CHECK),
    ],
)
def test_fix_names_the_nearest_directory(models, path, fix):
    assert suggest_directory(path, "model.path") == fix


def test_fix_names_offline_mode(models, monkeypatch):
    assert suggest_hub_fix("Qwen/Qwen2.5-0.5B", "model.path").startswith("check the name, the network")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert suggest_hub_fix("Qwen/Qwen2.5-0.5B", "model.path") == (
        "HF_HUB_OFFLINE=1 is set in this shell, and the model is not in its cache: unset HF_HUB_OFFLINE, or name a"
        " local directory"
    )
    assert suggest_hub_fix("models/qwen-tny", "model.path") == "did you mean model.path=models/qwen-tiny?"


@pytest.mark.parametrize(
    ("command", "places"),
    [
        ("train", "run_dir=DIR, prepared_dir=DIR, or SFT_HOME"),
        ("merge", "--out DIR, or SFT_HOME"),
        ("show", "SFT_HOME"),
    ],
)
def test_unwritable_directory_fix_names_the_option_of_the_command(command, places, tmp_path):
    fix = error_boundary._remedy(errno.EACCES, str(tmp_path / "no"), [command])
    assert fix == f"choose a directory you may write to ({places}), or change its permissions"


def test_unreadable_file_fix_does_not_suggest_a_directory(tmp_path, monkeypatch):
    file = tmp_path / "my rows.jsonl"
    file.write_text("{}\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can read every file
    fix = error_boundary._remedy(errno.EACCES, str(file), ["train"])
    assert fix == f"you may not read this file: chmod u+r '{file}', or name another"
