"""Disks that fill during a write: one error, no damaged file, and the command succeeds when repeated."""

import os
import shutil
import signal
import subprocess

import pytest
from faults_runs import SAVE_EVERY, SETTINGS, lost_bytes, steps, unfinished, whole, words

from sft_cli.run_dir import RunDir

pytestmark = pytest.mark.slow
PREPARE = [word for word in SETTINGS if not word.startswith(("trainer.", "eval."))]

SLOW = """
import time
from sft_cli.train import loop, session
def slowly(seconds, work):
    return lambda *arguments: (time.sleep(seconds), work(*arguments))[1]
loop.train_step, session.export_model = slowly(0.1, loop.train_step), slowly(1, session.export_model)
"""
"""Delays that leave time to fill the disk: between two steps, and before the export."""


def fill(place, leave=0):
    """Fill a disk up to so many bytes."""
    (place / "ballast").unlink(missing_ok=True)
    with open(place / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(place).free - leave))


def filled_when(command, condition, place, leave=0):
    """Fill the disk once a condition is true, and return the result of the command."""
    assert command.until(condition)
    command.send(signal.SIGSTOP)
    fill(place, leave)
    command.send(signal.SIGCONT)
    return command.wait()


def assert_full_disk_error(ended, place):
    """Check that the output is one error and its fix, both about the full disk, and that it names ``place``."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    error, fix = ended.err.splitlines()
    assert error.startswith("error: ")
    assert str(place) in error
    assert "No space left on device" in error
    assert fix.startswith("  fix: free disk space")


@pytest.mark.parametrize(
    ("when", "leave", "settings"),
    [
        ("during a checkpoint, nothing left", 0, []),
        ("during a checkpoint, half of one left", 900_000, []),
        ("during the metrics (save_every=100)", 0, ["trainer.save_every=100"]),
        ("during the export, nothing left", 0, []),
        ("during the export, half of it left", 300_000, []),
    ],
)
def test_run_resumes_after_a_full_disk(sft, straight, disk, ledger, when, leave, settings):
    place = disk("60m")
    run = RunDir(place / "run")
    command = sft(*words(run.path, "trainer.keep_checkpoints=9", *settings), before=SLOW)

    def soon():
        if "export" in when:
            return (run.checkpoints / "step-12" / "manifest.json").is_file()
        return len(steps(run)) >= SAVE_EVERY + 1

    with ledger.fault("disk full", when) as fault:
        assert_full_disk_error(filled_when(command, soon, place, leave), place)
        before = len(steps(run))
        kept = sorted(run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else []
        fault.lost = sum(not whole(checkpoint) for checkpoint in kept)
        assert not run.adapter.exists()
        assert [name for name in unfinished(run) if name.endswith(".tmp")] == []
        (place / "ballast").unlink()
        again = sft("train", "--resume", str(run.path)).wait()
        assert (again.code, again.err) == (0, ""), again
        resumed = int(again.out.partition("resume    after step ")[2].split()[0]) if kept else 0
        fault.repeated = before - resumed
        assert fault.repeated <= (SAVE_EVERY if not settings else 100)
        assert steps(run) == steps(straight)
        fault.lost += lost_bytes(run, straight)
        assert fault.lost == 0
        assert unfinished(run) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.8, 0.95])
def test_prepare_succeeds_after_a_full_disk(sft, straight, disk, ledger, share):
    """The disk fills at the start, in the cache of rows or of examples, in the tokenizer, or in the report."""
    place = disk("20m")
    assert sft("prepare", *PREPARE, SFT_HOME=str(place / "home")).wait().code == 0
    needed = shutil.disk_usage(place).used
    (manifest,) = (place / "home" / "prepared").glob("*/manifest.json")
    wanted = straight.read_json(manifest)["content"]
    shutil.rmtree(place / "home")
    with ledger.fault("disk full", "during prepare"):
        fill(place, int(needed * share))
        assert_full_disk_error(sft("prepare", *PREPARE, SFT_HOME=str(place / "home")).wait(), place)
        left = [path.name for path in (place / "home").glob("prepared/*")]
        assert left == []
        (place / "ballast").unlink()
        assert sft("prepare", *PREPARE, SFT_HOME=str(place / "home")).wait().code == 0
        (manifest,) = (place / "home" / "prepared").glob("*/manifest.json")
        assert straight.read_json(manifest)["content"] == wanted


@pytest.mark.parametrize("leave", [0, 300_000, 4_000_000])
def test_merge_on_a_full_disk_leaves_no_files(sft, straight, disk, ledger, leave):
    place = disk("40m")
    command = sft("merge", str(straight.path), "--out", str(place / "merged"))
    with ledger.fault("disk full", "during merge"):
        assert_full_disk_error(filled_when(command, lambda: any(place.glob(".merged.tmp")), place, leave), place)
        assert [path.name for path in place.iterdir()] == ["ballast"]
        (place / "ballast").unlink()
        again = sft("merge", str(straight.path), "--out", str(place / "merged")).wait()
        assert (again.code, again.err) == (0, ""), again
        assert [path.name for path in place.iterdir()] == ["merged"]


def test_disk_too_small_for_checkpoints_is_refused_before_loading(sft, straight, disk, ledger):
    place = disk("2m")
    with ledger.fault("disk full", "before the first step"):
        ended = sft(*words(place / "run")).wait()
        assert ended.code == 2
        assert "checkpoints need about" in ended.err
        assert not (place / "run").exists()


def test_existing_checkpoints_are_not_counted_twice(sft, straight, disk, ledger):
    """A run whose checkpoints just fitted resumes; the run directory is the mount point here."""
    place = disk("60m")
    shutil.copytree(straight.path, place, dirs_exist_ok=True)
    shutil.rmtree(place / "adapter")
    needed = 4 * sum(file.stat().st_size for file in (place / "checkpoints" / "step-12").iterdir())
    fill(place, needed - sum(file.stat().st_size for file in (place / "checkpoints").rglob("*.*")))
    with ledger.fault("disk full", "but for what the run has written itself"):
        ended = sft("train", "--resume", str(place)).wait()
        assert (ended.code, ended.err) == (0, ""), ended


@pytest.mark.parametrize("what", ["a new run", "a run that was stopped", "the cache"])
def test_read_only_disk_gives_one_error(sft, straight, disk, ledger, what):
    place = disk("60m")
    if what == "a run that was stopped":
        shutil.copytree(straight.path, place / "run")
        shutil.rmtree(place / "run" / "adapter")
    line, cache = words(place / "run"), {}
    if what == "the cache":
        line, cache = ["prepare", *PREPARE], {"SFT_HOME": str(place / "home")}
    elif what == "a run that was stopped":
        line = ["train", "--resume", str(place / "run")]
    there = sorted(path.name for path in place.rglob("*"))
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with ledger.fault("read-only disk", what):
        ended = sft(*line, **cache).wait()
        assert ended.code == 2, ended
        error, fix = ended.err.splitlines()
        assert error.startswith(f"error: {place}")
        assert error.endswith("Read-only file system")
        places = "prepared_dir=DIR" if what == "the cache" else "run_dir=DIR, prepared_dir=DIR"
        assert fix == f"  fix: choose a directory on a writable disk ({places}, or SFT_HOME)"
        assert sorted(path.name for path in place.rglob("*")) == there
