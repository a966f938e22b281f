"""Checkpoints: complete or absent, verified, and refused for other data or settings."""

import fcntl
import os
import shutil

import pytest

from sft_cli.config.compose import read_config
from sft_cli.config.schema.config import Config
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.train.checkpoints import checkpoint_dir
from sft_cli.train.setup.run_directory import locked_run_dir


def steps(directory) -> list[str]:
    return [path.name for path in checkpoint_dir.list_checkpoints(directory.checkpoints)]


def test_the_newest_and_the_best_are_kept(runs, metrics):
    done = runs.start("r", "trainer.save_every=1", "trainer.eval_every=1", "trainer.keep_checkpoints=2")

    losses = {m["step"]: m["loss"] for m in metrics(done, eval=True)}
    best = min(losses, key=losses.__getitem__)
    assert steps(done) == [f"step-{n}" for n in sorted({best, 7, 8})]


@pytest.mark.every_change("18-420")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_mode_that_the_umask_gives(runs, mask, mode):
    """In the whole run directory: safetensors creates files that only their owner can read."""
    before = os.umask(mask)
    try:
        done = runs.start("r", "trainer.save_every=4", "eval.compare_after_training=true")
    finally:
        os.umask(before)
    files = [file for file in done.path.rglob("*") if file.is_file()]
    assert {"trained.safetensors", "rng.safetensors", "console.log", "after.json"} <= {file.name for file in files}
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in files if file.name != ".lock"} == {
        file.name: oct(mode) for file in files if file.name != ".lock"
    }


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(runs, metrics, capsys, damage):
    done = runs.start("r", "trainer.save_every=4", "trainer.keep_checkpoints=3")
    straight = [m["loss"] for m in metrics(done)]
    broken = done.checkpoints / "step-8"
    file = broken / ("manifest.json" if damage == "manifest" else "optimizer.safetensors")
    content = file.read_bytes()
    if damage in ("remove", "manifest"):
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    unfinish(done)
    capsys.readouterr()

    again = runs.resume("r")

    output = capsys.readouterr().out
    assert f"checkpoint {broken} is damaged" in output
    assert "resume    after step 4 of 8" in output
    assert [m["loss"] for m in metrics(again)] == straight


def unfinish(directory) -> None:
    """Remove the result, as if the run had been killed before writing it."""
    shutil.rmtree(directory.adapter)


def test_resume_refuses_another_setting_and_accepts_a_layout_setting(runs):
    done = runs.start("r", "trainer.max_steps=4", "trainer.save_every=2")
    unfinish(done)
    before = {path.name: path.read_bytes() for path in done.path.iterdir() if path.is_file()}

    with pytest.raises(SftError) as refused:
        runs.resume("r", "trainer.lr=0.02")
    assert str(refused.value) == (
        f"{done.path}: the run began with other settings: trainer.lr was 0.01, is now 0.02\n"
        f"  fix: resume with its own settings: sft train --resume {done.path};"
        " or start a new run: sft train recipe=NAME run_dir=DIR"
    )
    with pytest.raises(SftError) as refused:
        runs.resume("r", "trainer.max_steps=2")
    assert refused.value.fix == (
        f"sft train --resume {done.path}  # as planned\n"
        f"sft stop {done.path} --export  # ends it now, with its best weights"
    )
    assert before == {path.name: path.read_bytes() for path in done.path.iterdir() if path.is_file()}
    runs.resume("r", "speed.tokens_per_micro_batch=auto")
    tokens = read_config(done.config).speed.tokens_per_micro_batch
    assert isinstance(tokens, int)
    assert tokens >= 256, "the number that was chosen is recorded"


def test_resume_refuses_other_rows(runs, rows, tmp_path):
    copy = tmp_path / "rows.jsonl"
    copy.write_text(rows.read_text())
    done = runs.start("r", f"data.mix.local.path={copy}", "trainer.max_steps=4")
    unfinish(done)
    copy.write_text(rows.read_text().replace("question 3", "question III"))
    before = done.data.read_text()

    with pytest.raises(SftError, match=r"the run began with other rows: .*rows\.jsonl.* changed since"):
        runs.resume("r")
    assert done.data.read_text() == before


@pytest.mark.slow
def test_resume_names_the_data_key_that_changes_rows_before_preparing(runs, rows, tmp_path, monkeypatch):
    done = runs.start("r", "trainer.max_steps=1")
    unfinish(done)
    other, same = tmp_path / "other.jsonl", tmp_path / "same.jsonl"
    other.write_text(rows.read_text().replace("question 3", "question III"))
    same.write_text(rows.read_text())
    with monkeypatch.context() as patched:
        patched.setattr("sft_cli.prepare.prepare.prepare_data", None)
        with pytest.raises(SftError) as refused:
            runs.resume("r", f"data.mix.local.path={other}")
    assert refused.value.problem == (
        f"the run began with other settings: data.mix.local.path was '{rows}', is now '{other}'"
    )
    runs.resume("r", f"data.mix.local.path={same}", "data.workers=1")


@pytest.mark.slow
def test_the_fix_for_a_finished_run_continues_it_as_a_new_run(runs):
    done = runs.start("r", "trainer.max_steps=1")
    with pytest.raises(SftError) as refused:
        runs.resume("r", "trainer.epochs=4")
    assert refused.value.fix == (
        f"sft train recipe={done.path}/config.yaml adapter.start_from={done.path} run_dir={done.path}-2"
        " trainer.epochs=4"
    )
    again = runs._train("r-2", refused.value.fix.split()[2:])
    assert again.adapter.is_dir()


def test_a_checkpoint_before_a_damaged_one_is_kept(runs, capsys):
    """The damaged step-8 must not count among the newest checkpoints, or each new one would be removed."""
    done = runs.start("r", "trainer.save_every=1", "trainer.keep_checkpoints=2", "data.val_fraction=0")
    last = steps(done)[-1]
    unfinish(done)
    (done.checkpoints / last / "state.json").write_text("{}")

    runs.resume("r", "trainer.keep_checkpoints=1")

    assert steps(done) == [last]
    assert checkpoint_dir.find_fault(done.checkpoints / last) is None


def test_a_damaged_best_checkpoint_is_not_exported(runs, metrics):
    done = runs.start(
        *("r", "trainer.lr=0.3", "trainer.epochs=10", "trainer.eval_every=1", "trainer.patience=2"),
        "trainer.examples_per_step=64",
    )
    losses = [line["loss"] for line in metrics(done, eval=True)]
    best = losses.index(min(losses)) + 1
    assert best < len(losses)
    unfinish(done)
    file = done.checkpoints / f"step-{best}" / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    with pytest.raises(SftError) as refused:
        runs.resume("r")
    assert refused.value.problem == ("the best checkpoint is damaged (trained.safetensors does not match its sha256)")
    runs.resume("r", "trainer.keep_best=false")


def test_two_processes_do_not_train_in_one_directory(runs):
    done = runs.start("r", "trainer.max_steps=2")
    unfinish(done)
    with (done.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SftError) as refused:
            runs.resume("r")
    assert str(refused.value) == (
        f"{done.path}: another process trains there\n"
        f"  fix: wait for it, or stop it: sft stop {done.path};"
        f" a new run needs a directory of its own: run_dir={done.path}-2"
    )


def test_default_names_of_the_same_second_get_numbers(tmp_path):
    names = []
    for _ in range(3):
        with locked_run_dir(RunDir(tmp_path / "runs" / "x"), Config(), resumed=False) as directory:
            names.append(directory.path.name)
    assert names == ["x", "x-2", "x-3"]


def test_a_run_is_never_overwritten(runs):
    done = runs.start("r", "trainer.max_steps=1")

    with pytest.raises(SftError) as refused:
        runs.start("r", "trainer.max_steps=1")
    assert str(refused.value) == (
        f"run_dir={done.path}: the directory already contains a run\n"
        f"  fix: resume it: sft train --resume {done.path}\n   or: run_dir={done.path}-2"
    )
