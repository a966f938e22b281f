"""The directory of prepared data: found by its path, replaced as a whole, and never mistaken for another one."""

import json
import os
from pathlib import Path

import pytest

from sft_cli.data.prepared import open_prepared, read_manifest
from sft_cli.errors import SftError
from sft_cli.prepare.publish import replace_directory, temp_directory


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Return a working directory without prepared data."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    return tmp_path / "work"


def write_manifest(directory):
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text('{"fingerprint": "a", "content": "b", "inputs": {}}')


@pytest.mark.parametrize(
    ("path", "problem", "first"),
    [
        ("other", "not a prepared directory (no manifest.json)", "sft prepare FILE"),
        ("absent", "there is no such directory", "sft prepare FILE"),
        ("rows.jsonl", "it is a file, not a directory that sft prepare wrote", "sft prepare rows.jsonl"),
    ],
)
def test_path_without_prepared_data(empty, tmp_path, path, problem, first):
    """The fix lists existing prepared data in the working directory and in the cache."""
    (empty / "other").mkdir()
    (empty / "rows.jsonl").touch()
    with pytest.raises(SftError) as caught:
        open_prepared(Path(path))
    prepare = f"{first} model=DIR_OR_HUB_ID prepared_dir=DIR"
    assert str(caught.value) == f"{path}: {problem}\n  fix: {prepare}"
    write_manifest(tmp_path / "home" / "prepared" / "0123")
    write_manifest(empty / "mine")
    os.utime(empty / "mine" / "manifest.json", (0, 0))
    with pytest.raises(SftError) as caught:
        open_prepared(Path(path))
    known = [f"sft inspect {tmp_path}/home/prepared/0123", "sft inspect mine"]
    assert caught.value.fix.split("\n") == ([prepare] if path == "rows.jsonl" else []) + known


def test_sweep_directory_is_not_a_prepared_directory(empty):
    for number, data in enumerate(("/data/a", "/data/b", "/data/a")):
        (empty / "sweep" / str(number)).mkdir(parents=True)
        (empty / "sweep" / str(number) / "config.yaml").touch()
        (empty / "sweep" / str(number) / "data.json").write_text(json.dumps({"prepared_dir": data}))
    with pytest.raises(SftError) as caught:
        open_prepared(Path("sweep"))
    assert str(caught.value) == (
        "sweep: it holds 3 runs, not a prepared directory\n  fix: sft inspect /data/a\n   or: sft inspect /data/b"
    )


def test_directory_is_replaced_as_a_whole(tmp_path):
    new, final = tmp_path / "new", tmp_path / "final"
    for directory, name in ((new, "fresh"), (final, "stale")):
        directory.mkdir()
        (directory / name).touch()
    replace_directory(new, final)
    assert [file.name for file in tmp_path.iterdir()] == ["final"]
    assert [file.name for file in final.iterdir()] == ["fresh"]


def made_of(directory, fingerprint):
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint, "content": "c", "inputs": {}}))
    return directory


def test_equal_data_of_another_process_are_kept(tmp_path):
    new, final = made_of(tmp_path / "new", "f"), made_of(tmp_path / "final", "f")
    before = final.stat().st_ino
    replace_directory(new, final)
    assert final.stat().st_ino == before


def test_other_data_written_meanwhile(tmp_path, monkeypatch):
    """Another process writes the directory between the two moves."""
    new, final = made_of(tmp_path / "new", "f"), made_of(tmp_path / "final", "old")
    rename = Path.rename

    def slow(self, target):
        moved = rename(self, target)
        if self == final:
            made_of(final, "other")
        return moved

    monkeypatch.setattr(Path, "rename", slow)
    with pytest.raises(SftError) as caught:
        replace_directory(new, final)
    assert str(caught.value) == (
        f"{final}: another process has put other data there at the same time\n"
        "  fix: prepared_dir=DIR of its own for each run, or remove prepared_dir"
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["final", "new"]


def test_temp_directory_removes_leftovers_after_a_day(tmp_path):
    left, young = temp_directory(tmp_path / "a"), temp_directory(tmp_path / "b")
    mine = tmp_path / ".out.settings"
    mine.mkdir()
    for directory in (left, mine):
        os.utime(directory, (0, 0))
    result = temp_directory(tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([mine, young, result])


def test_run_is_not_a_prepared_directory(tmp_path):
    """A run directory contains a copy of the manifest; it must not be replaced or removed."""
    run = tmp_path / "run"
    run.mkdir()
    for name, content in (
        ("config.yaml", "run_name: a\n"),
        ("data.json", '{"prepared_dir": "/data/my rows"}'),
        ("manifest.json", '{"fingerprint": "a", "content": "b", "inputs": {}}'),
    ):
        (run / name).write_text(content)

    assert read_manifest(run) is None
    with pytest.raises(SftError) as caught:
        open_prepared(run)
    assert str(caught.value) == (f"{run}: it is a run, not a prepared directory\n  fix: sft inspect '/data/my rows'")
