"""Damaged checkpoints, and runs resumed with different data or settings."""

import shutil

import pytest
from faults_runs import SAVE_EVERY, digests, lost_bytes, steps

from sft_cli.run_dir import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture
def stopped(straight, tmp_path):
    """Return a copy of the undisturbed run as if killed before its export, with checkpoints of steps 9 and 12."""
    shutil.copytree(straight.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    return RunDir(tmp_path / "run")


def flip(file, place):
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        ("truncated", "optimizer.safetensors", "does not match its sha256"),
        ("emptied", "state.json", "does not match its sha256"),
        ("a flipped bit", "trained.safetensors", "does not match its sha256"),
        ("a flipped bit", "rng.safetensors", "does not match its sha256"),
        ("a file missing", "trained.safetensors", "trained.safetensors is missing"),
        ("the manifest missing", "manifest.json", "manifest.json is missing"),
        ("the manifest truncated", "manifest.json", "manifest.json is not readable"),
        ("the manifest of something else", "manifest.json", "manifest.json does not list state.json"),
    ],
)
def test_damaged_checkpoint_is_skipped_with_a_warning(sft, straight, stopped, ledger, damage, file, reason):
    broken = stopped.checkpoints / "step-12"
    place = broken / file
    if "truncated" in damage:
        place.write_bytes(place.read_bytes()[:-9])
    elif "flipped" in damage:
        flip(place, place.stat().st_size // 2)
    elif damage == "emptied":
        place.write_bytes(b"")
    elif "else" in damage:
        place.write_text("[]")
    else:
        place.unlink()
    with ledger.fault("damaged checkpoint", f"{damage}, {file}") as fault:
        ended = sft("train", "--resume", str(stopped.path)).wait()
        assert (ended.code, ended.err) == (0, ""), ended
        assert f"checkpoint {broken} is damaged (" in ended.out
        assert f"{reason}); trying the one before it" in ended.out
        assert "resume    after step 9 of 12" in ended.out
        fault.repeated = 3
        assert steps(stopped) == steps(straight)
        fault.lost = lost_bytes(stopped, straight)
        assert fault.lost == 0
        assert digests(stopped.checkpoints) == digests(straight.checkpoints)
    assert fault.repeated <= SAVE_EVERY


def test_run_restarts_with_a_warning_if_all_checkpoints_are_damaged(sft, straight, stopped, ledger):
    for checkpoint in stopped.checkpoints.iterdir():
        (checkpoint / "manifest.json").unlink()
    with ledger.fault("damaged checkpoint", "all of them") as fault:
        ended = sft("train", "--resume", str(stopped.path)).wait()
        assert (ended.code, ended.err) == (0, ""), ended
        assert "warning: all checkpoints are damaged: training starts again from step 0" in ended.out
        assert steps(stopped) == steps(straight)
        fault.lost = lost_bytes(stopped, straight)
        assert fault.lost == 0


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("trainer.lr=1e-3", "trainer.lr was 0.002, is now 0.001"),
        ("adapter.rank=4", "adapter.rank was "),
        ("template=chatml", "template."),
        ("data.mix.quickstart.max_rows=100", "_rows was 200, is now 100"),
        ("trainer.seed=7", "trainer.seed was 42, is now 7"),
    ],
)
def test_resume_with_different_data_or_settings_is_refused(sft, stopped, ledger, word, key):
    before = digests(stopped.path)
    with ledger.fault("wrong resume", word):
        ended = sft("train", "--resume", str(stopped.path), word).wait()
        assert ended.code == 2, ended
        assert ended.err.startswith(f"error: {stopped.path}: the run began with other settings: ")
        assert key in ended.err
        assert digests(stopped.path) == before
