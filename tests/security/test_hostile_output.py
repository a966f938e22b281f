"""Printed text cannot control the terminal and contains no secret."""

import subprocess
import sys

import pytest

from sft_cli import console, progress
from sft_cli.cli import program
from sft_cli.config.compose import compose
from sft_cli.config.redaction import redact_secrets
from sft_cli.errors import SftError

ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e\x9b31m\r"


def test_printed_messages_have_no_escape_sequences(capsys, monkeypatch):
    console.say(f"row {ESCAPES}")
    console.table(["name"], [[f"a{ESCAPES}"]])
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with progress.progress(f"read{ESCAPES}", 10) as shown:
        shown.advance(1)
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x07\u202e\x9b\r")
    assert "␛[2J" in out
    assert "␛[2J" in err


@pytest.mark.parametrize("error", [SftError(where=f"a{ESCAPES}", problem="b", fix="c"), ValueError(f"bug {ESCAPES}")])
def test_errors_have_no_escape_sequences(error, capsys, monkeypatch):
    """Both for an error of the user, and a bug with its traceback."""

    def fail(_):
        raise error

    monkeypatch.setattr(program, "execute", fail)
    monkeypatch.setattr(sys, "argv", ["sft"])
    with pytest.raises(SystemExit):
        program.main()
    printed = capsys.readouterr().err
    assert not set(printed) & set("\x1b\x07\u202e\x9b\r")
    assert "␛[2J" in printed


def test_file_name_with_escape_sequences(tmp_path):
    """The command runs in a new process, as typed by a user."""
    name = f"no{ESCAPES}such.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "sft_cli", "show", f"recipe={name}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stdout + done.stderr


SECRETS = [
    ("https://me:pass@host/x", "https://***@host/x"),
    ("GET https://b.s3.amazonaws.com/k?X-Amz-Signature=0123456789 failed", "X-Amz-Signature=***"),
    ("token hf_abcdefghijklmnopqrstuvwxyz0123 is wrong", "token *** is wrong"),
    ("sk-proj-abcdefghijklmnopqrstuv", "***"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123", "***"),
    ("my-very-secret-key", "***"),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_secrets_are_masked_in_messages(text, shown, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "my-very-secret-key")
    assert shown in redact_secrets(text)
    assert not any(secret in redact_secrets(text) for secret in ("pass@", "0123456789", "abcdefghij", "very-secret"))


@pytest.mark.parametrize(
    "text", ["TOKENIZERS_PARALLELISM=false", "rows.jsonl:17: bad", "data.mix.a.path=s3://b/k.jsonl"]
)
def test_other_text_is_not_masked(text):
    assert redact_secrets(text) == text


def test_traceback_shows_no_secret(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")

    def fail(_):
        raise RuntimeError("401 for https://host/?token=abc with hf_abcdefghijklmnopqrstuvwxyz")

    monkeypatch.setattr(program, "execute", fail)
    monkeypatch.setattr(sys, "argv", ["sft"])
    with pytest.raises(SystemExit) as found:
        program.main()
    printed = capsys.readouterr().err
    assert found.value.code == 1
    assert "Traceback" in printed
    assert "401 for https://host/?token=*** with ***" in printed


def test_token_in_a_config_is_refused(monkeypatch):
    with pytest.raises(SftError, match=r"launcher\.setup holds what looks like an access token"):
        compose(["launcher=slurm", "launcher.setup=export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz0123"])
