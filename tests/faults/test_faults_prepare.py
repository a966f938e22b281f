"""Killed prepare and merge commands, and removed inputs: repeating gives the same result, without partial files."""

import json
import random
import signal
import time

import psutil
import pytest
from faults_runs import digests

pytestmark = pytest.mark.slow
ROWS = 3_000


@pytest.fixture
def rows(tmp_path):
    """A file of rows."""
    file = tmp_path / "rows.jsonl"
    lines = ({"instruction": f"What is {i} times {i}?", "output": f"{i * i}, of course."} for i in range(ROWS))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def line(rows, workers=1):
    return [
        "prepare", "data=local", f"data.mix.local.path={rows}", "model=quickstart", "template=alpaca",
        f"data.workers={workers}",
    ]  # fmt: skip


def content(home):
    (manifest,) = home.glob("prepared/*/manifest.json")
    return json.loads(manifest.read_text())["content"]


def test_killed_prepare_gives_the_same_rows_when_repeated(sft, ledger, rows, tmp_path):
    began = time.monotonic()
    assert sft(*line(rows), SFT_HOME=str(tmp_path / "straight")).wait().code == 0
    seconds, home, chance = time.monotonic() - began, tmp_path / "home", random.Random(5)
    for _ in range(4):
        command = sft(*line(rows), SFT_HOME=str(home))
        time.sleep(chance.random() * seconds)
        command.send(signal.SIGKILL)
        with ledger.fault("SIGKILL", "preparing 3,000 rows"):
            ended = command.wait()
            assert ended.err == ""
            assert all((path / "manifest.json").is_file() for path in home.glob("prepared/[!.]*"))
    ended = sft(*line(rows), SFT_HOME=str(home)).wait()
    assert (ended.code, ended.err) == (0, ""), ended
    assert content(home) == content(tmp_path / "straight")
    assert list(home.glob("stages/*/*.partial")) == []


@pytest.mark.parametrize("how", ["removed", "shortened", "replaced"])
def test_rows_removed_during_reading_give_one_error(sft, ledger, rows, tmp_path, how):
    home, text = tmp_path / "home", rows.read_text()
    command = sft(*line(rows), SFT_HOME=str(home))
    assert command.until(lambda: any(home.glob("stages/rows/*.partial")))
    command.send(signal.SIGSTOP)
    if how == "removed":
        rows.unlink()
    elif how == "shortened":
        rows.write_text(text[: len(text) // 2])
    else:
        rows.unlink()
        rows.write_text(text.replace("of course", "naturally"))
    with ledger.fault("file changed", f"the rows, {how} while they are read"):
        command.send(signal.SIGCONT)
        ended = command.wait()
        assert ended.code in (0, 2), ended
        assert "Traceback" not in ended.err
        assert len(ended.err.splitlines()) == ended.code
        rows.write_text(text)
        assert sft(*line(rows), SFT_HOME=str(home)).wait().code == 0
        straight = tmp_path / "straight"
        assert sft(*line(rows), SFT_HOME=str(straight)).wait().code == 0
        for path in home.glob("prepared/*/manifest.json"):
            found = json.loads(path.read_text())
            if (
                found["fingerprint"]
                == json.loads(next(straight.glob("prepared/*/manifest.json")).read_text())["fingerprint"]
            ):
                assert found["content"] == content(straight)


def test_killed_worker_gives_one_error(sft, ledger, rows, tmp_path):
    """The kernel sends SIGKILL when memory runs out."""
    home = tmp_path / "home"
    long = ({"instruction": f"What is {i}?", "output": f"It is {i}, of course. " * 60} for i in range(6_500))
    rows.write_text("".join(json.dumps(row) + "\n" for row in long))
    command = sft(*line(rows, workers=2), SFT_HOME=str(home))

    def workers():
        found = psutil.Process(command.pid).children()
        return [child for child in found if "spawn_main" in " ".join(child.cmdline())]

    assert command.until(lambda: len(workers()) == 2)
    with ledger.fault("worker killed", "preparing"):
        workers()[0].kill()
        ended = command.wait()
        # Python may then warn about semaphores: a forked process skips its exit functions.
        assert ended.code == 2
        assert ended.err.startswith(
            "error: a worker process: the process was killed, probably because the machine ran out of memory\n"
            "  fix: try again with fewer processes: data.workers=1 (finished parts are kept)\n"
        )
        assert list(home.glob("prepared/*")) == []
        assert sft(*line(rows), SFT_HOME=str(home)).wait().code == 0


def test_killed_merge_leaves_no_model_and_can_be_repeated(sft, straight, ledger, tmp_path):
    words = ["merge", str(straight.path)]
    assert sft(*words, "--out", str(tmp_path / "straight")).wait().code == 0
    out, chance = tmp_path / "merged", random.Random(7)
    for _ in range(3):
        command = sft(*words, "--out", str(out))
        assert command.until(lambda: any(tmp_path.glob(".merged.tmp")))
        time.sleep(chance.random() * 0.5)
        command.send(signal.SIGKILL)
        with ledger.fault("SIGKILL", "merging"):
            command.wait()
            assert not out.exists() or digests(out) == digests(tmp_path / "straight")
        if out.exists():
            break
    if not out.exists():
        ended = sft(*words, "--out", str(out)).wait()
        assert (ended.code, ended.err) == (0, ""), ended
    assert digests(out) == digests(tmp_path / "straight")
    assert not (tmp_path / ".merged.tmp").exists()
