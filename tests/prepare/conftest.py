"""Fixtures of the tests of preparation: a home directory, and configs over rows of one source."""

import shutil

import pytest

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import SourceConfig
from tests.data.conftest import config
from tests.prepare.helpers import ROWS, SMALL, write_jsonl

__all__ = ["config"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a separate home for each test, so that they share no cache."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def make_config(home):
    """Return a function that makes the config of a run over rows of one source, ``mine``."""

    def config(rows=ROWS, name="rows.jsonl", format="auto", **source):
        write_jsonl(home / name, rows)
        shutil.copytree(SMALL, home / "tokenizer", dirs_exist_ok=True)
        result = Config(prepared_dir=str(home / "out"))
        result.model.tokenizer = str(home / "tokenizer")
        result.template.name = "chatml"
        result.data.mix["mine"] = SourceConfig(path=str(home / name), format=format, **source)
        return result

    return config
