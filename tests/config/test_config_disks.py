"""Name the full disk if the error does not."""

import shutil

import pytest

from sft_cli.config.disks import FULL, describe_full_disk


@pytest.mark.parametrize(
    ("words", "full", "disk"),
    [
        (["train", "--resume", "runs/a", "trainer.lr=1"], "runs", "the disk of runs/a"),
        (["train", "recipe=x", "run_dir=runs/a/b"], "home", "the disk of {home}"),
        (["merge", "runs/a", "--out", "out/m"], "out", "the disk of out/m"),
        (["prepare", "prepared_dir="], None, "this machine"),
    ],
)
def test_full_disk_is_named(tmp_path, monkeypatch, words, full, disk):
    for name in ("runs", "home", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    usage = shutil.disk_usage(tmp_path)

    def measured(path):
        return usage._replace(free=FULL - 1 if path == tmp_path / str(full) else FULL)

    monkeypatch.setattr(shutil, "disk_usage", measured)
    assert describe_full_disk(words) == disk.format(home=tmp_path / "home")
