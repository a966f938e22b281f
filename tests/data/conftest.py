"""A run over two small sources, and a web server."""

import shutil
from pathlib import Path

import pytest

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import SourceConfig
from tests.data.web_server import Site, clear_remote_caches
from tests.prepare.helpers import make_rows, write_jsonl

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Return a function that makes the config of a run over two sources, ``a`` (30 rows) and ``b`` (12 rows)."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    write_jsonl(tmp_path / "a.jsonl", make_rows("a", 30))
    write_jsonl(tmp_path / "b.jsonl", make_rows("b", 12))

    def config():
        result = Config(prepared_dir=str(tmp_path / "out"))
        result.model.tokenizer = str(tmp_path / "tokenizer")
        result.template.name = "chatml"
        for name in ("a", "b"):
            result.data.mix[name] = SourceConfig(path=str(tmp_path / f"{name}.jsonl"))
        return result

    return config


@pytest.fixture
def in_an_empty_directory(tmp_path, monkeypatch):
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a running web server, with a new working directory and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    clear_remote_caches()
    site = Site()
    yield site
    site.stop()
