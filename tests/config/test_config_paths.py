"""Saved configs have the same meaning in every working directory."""

import pytest

from sft_cli.config.paths import absolute
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import SourceConfig


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with ``rows.jsonl``, ``base`` and ``data``; the home directory is ``~``."""
    here = tmp_path / "here"
    (here / "data").mkdir(parents=True)
    (here / "base").mkdir()
    (here / "rows.jsonl").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    return here


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("rows.jsonl", "{here}/rows.jsonl"),
        ("./data/../rows.jsonl", "{here}/rows.jsonl"),
        ("~/here/rows.jsonl", "{here}/rows.jsonl"),
        ("~/missing", "{home}/missing"),
        ("*.jsonl", "{here}/*.jsonl"),
        ("data/**/*.jsonl", "{here}/data/**/*.jsonl"),
        ("missing/*.jsonl", "missing/*.jsonl"),
        ("owner/name", "owner/name"),
        ("builtin:quickstart/model", "builtin:quickstart/model"),
    ],
)
def test_only_local_files_become_absolute(here, given, expected):
    config = Config()
    config.model.path = config.model.tokenizer = config.template.path = given
    config.data.mix["mine"] = SourceConfig(path=given, validation_path=given)
    made = absolute(config)
    expected = expected and expected.format(here=here, home=here.parent)
    source = made.data.mix["mine"]
    found = [made.model.path, made.model.tokenizer, made.template.path, source.path, source.validation_path]
    assert found == [expected] * 5
    assert config.data.mix["mine"].path == given
    assert absolute(made) == made


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("out/x", "{here}/out/x"), ("~/out", "{home}/out")])
def test_output_paths_need_not_exist(here, given, expected):
    made = absolute(Config(run_dir=given, prepared_dir=given))
    assert [made.run_dir, made.prepared_dir] == [expected and expected.format(here=here, home=here.parent)] * 2


def test_glob_below_a_directory_with_brackets(here, monkeypatch):
    (here / "[1]").mkdir()
    monkeypatch.chdir(here / "[1]")
    config = Config()
    config.data.mix["mine"] = SourceConfig(path="*.jsonl")
    assert absolute(config).data.mix["mine"].path == f"{here}/[[]1]/*.jsonl"


def test_other_values_are_unchanged():
    config = Config(run_name="mine")
    config.data.mix["mine"] = SourceConfig(weight=2.0)
    assert absolute(config) == config
