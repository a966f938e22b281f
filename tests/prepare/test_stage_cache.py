"""Cached stages: an incomplete stage is never used as finished."""

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest

from sft_cli.config.schema.clean import CleanConfig
from sft_cli.prepare import filter_stage, stage_cache
from sft_cli.utils.atomic import atomic_path, write_atomic
from sft_cli.utils.locks import NO_LOCKS

INPUTS = {"rows": "abc"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def build(content="whole"):
    """Make the stage unless it exists; return its directory and whether it existed."""
    with stage_cache.stage_dir("rows", INPUTS) as (directory, done):
        if not done:
            write_atomic(directory / "part-0", content.encode())
            stage_cache.mark_done(directory, {"found": content})
    return stage_cache.final_dir(directory), done


def test_stage_is_made_once():
    directory, done = build("first")
    assert (done, stage_cache.load_result(directory)) == (False, {"found": "first"})
    assert build("second") == (directory, True)
    assert (directory / "part-0").read_text() == "first"
    assert sorted(file.name for file in directory.iterdir()) == ["part-0", "stage.json"]


def test_failed_stage_resumes_with_its_parts():
    def stopped():
        with stage_cache.stage_dir("rows", INPUTS) as (directory, _):
            write_atomic(directory / "part-0", b"kept")
            raise OSError(str(directory))

    with pytest.raises(OSError, match="partial") as caught:
        stopped()
    directory = Path(str(caught.value))
    assert not stage_cache.final_dir(directory).exists()
    with stage_cache.stage_dir("rows", INPUTS) as (again, done):
        assert (again, done, (again / "part-0").read_bytes()) == (directory, False, b"kept")


def test_finished_stage_without_its_final_name_is_used():
    directory, _ = build("first")
    directory.rename(directory.with_suffix(".partial"))
    assert build("second") == (directory, True)
    assert (directory / "part-0").read_text() == "first"


def test_partly_removed_stage_is_made_again(home, monkeypatch):
    directory, _ = build("first")
    long_ago = time.time() - (stage_cache.KEEP_DAYS + 1) * 86_400
    os.utime(directory, (long_ago, long_ago))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        stage_cache.evict_old()
    assert (directory / "part-0").is_file()
    assert build("second") == (directory, False)
    assert (directory / "part-0").read_text() == "second"


def test_evict_old_removes_unused_stages_only(home, capsys):
    directory, _ = build()
    long_ago = time.time() - (stage_cache.KEEP_DAYS + 1) * 86_400
    os.utime(directory, (long_ago, long_ago))
    build()
    stage_cache.evict_old()
    assert directory.is_dir()
    assert capsys.readouterr().out == ""
    os.utime(directory, (long_ago, long_ago))
    stage_cache.evict_old()
    assert list((home / "stages" / "rows").iterdir()) == []
    assert capsys.readouterr().out == (
        f"cache     1 stages unused for {stage_cache.KEEP_DAYS} days were removed from {home / 'stages'}\n"
    )


def test_unfinished_stage_survives_a_clock_jump(home):
    with stage_cache.stage_dir("rows", INPUTS) as (directory, _):
        write_atomic(directory / "part-0", b"kept")
        os.utime(directory, (1, 1))
        stage_cache.evict_old()
        assert (directory / "part-0").is_file()
    os.utime(directory, (1, 1))
    stage_cache.evict_old()
    assert not directory.exists()


@pytest.mark.parametrize("number", NO_LOCKS)
def test_stage_dir_reports_a_disk_without_locks(home, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert build()[1] is False
    assert capsys.readouterr().out == (
        f"data      the disk of {home} has no file locks: prepare the same rows in one run at a time\n"
    )


def test_file_is_written_completely_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    write_atomic(file, b"first")

    def stopped():
        with atomic_path(file) as new:
            new.write_bytes(b"sec")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        stopped()
    assert [(result.name, result.read_bytes()) for result in tmp_path.iterdir() if result.is_file()] == [
        ("file", b"first")
    ]


def test_filter_key_depends_on_library_versions():
    known = filter_stage.clean_inputs(CleanConfig(steps=["leakage", "language", "pii"]))
    assert [list(step["libraries"]) for step in known] == [[], ["py3langid"], ["phonenumbers", "python-stdnum"]]
