"""The checkpoints of a run: which are valid, which are kept, and that incomplete ones are never used."""

import json
import shutil

import pytest

from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.utils.hashing import sha256_of_file


def make(root, step):
    """A checkpoint of two files."""
    directory = root / f"step-{step}"
    directory.mkdir(parents=True)
    (directory / "state.json").write_text("{}")
    (directory / "trained.safetensors").write_bytes(b"weights")
    names = ("state.json", "trained.safetensors")
    (directory / "manifest.json").write_text(json.dumps({name: sha256_of_file(directory / name) for name in names}))
    return directory


def names(root):
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", "{", "manifest.json is not readable"),
        ("manifest.json", "[]", "manifest.json does not list state.json"),
        ("manifest.json", "{}", "manifest.json does not list state.json"),
        ("state.json", None, "state.json is missing"),
        ("trained.safetensors", "Weights", "trained.safetensors does not match its sha256"),
    ],
)
def test_find_fault(tmp_path, file, content, fault):
    directory = make(tmp_path, 3)
    assert checkpoint_dir.find_fault(directory) is None
    (directory / file).unlink() if content is None else (directory / file).write_text(content)
    assert checkpoint_dir.find_fault(directory) == fault


def test_latest_valid_warns_about_damaged_checkpoints(tmp_path, capsys):
    for step in (2, 9, 10):
        make(tmp_path, step)
    assert checkpoint_dir.latest_valid(tmp_path) == tmp_path / "step-10"
    assert capsys.readouterr().out == ""
    (tmp_path / "step-10" / "state.json").unlink()
    assert checkpoint_dir.latest_valid(tmp_path) == tmp_path / "step-9"
    for step in (2, 9):
        (tmp_path / f"step-{step}" / "manifest.json").unlink()
    capsys.readouterr()
    assert checkpoint_dir.latest_valid(tmp_path) is None
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == "warning: all checkpoints are damaged: training starts again from step 0"
    assert len(output) == 4


def test_a_run_without_checkpoints_prints_no_warning(tmp_path, capsys):
    assert checkpoint_dir.latest_valid(tmp_path / "none") is None
    assert capsys.readouterr().out == ""


def test_prune_keeps_the_newest_and_the_listed_steps(tmp_path):
    for step in range(1, 7):
        make(tmp_path, step)
    checkpoint_dir.prune_checkpoints(tmp_path, (2, None), 3)
    assert names(tmp_path) == ["step-2", "step-4", "step-5", "step-6"]
    checkpoint_dir.remove_after(tmp_path, 4)
    assert names(tmp_path) == ["step-2", "step-4"]


def test_an_interrupted_removal_leaves_no_checkpoint(tmp_path, monkeypatch):
    """The directory is renamed first, so that step-3 never exists incompletely."""
    make(tmp_path, 3)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        checkpoint_dir.remove_checkpoint(tmp_path / "step-3")
    assert checkpoint_dir.list_checkpoints(tmp_path) == []
    assert names(tmp_path) == [".step-3.old.tmp"]
    make(tmp_path, 3)
    checkpoint_dir.remove_checkpoint(tmp_path / "step-3")
    assert names(tmp_path) == []


def test_remove_partial(tmp_path):
    for name in (".step-3.tmp", ".step-3.old.tmp", ".step-12.tmp"):
        (tmp_path / name).mkdir()
    make(tmp_path, 3)
    checkpoint_dir.remove_partial(tmp_path)
    assert names(tmp_path) == ["step-3"]
