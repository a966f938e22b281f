"""External faults of `sft prepare`: signals, kills and growing files. tests/faults has more of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "masks" / "tokenizer"
ROWS = 12_000
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """Return a directory with rows and a tokenizer."""
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for i in range(ROWS):
            row = {"instruction": f"What is {i} times {i}?", "output": f"It is {i * i}, or {i} squared. " * 30}
            file.write(json.dumps(row) + "\n")
    return tmp_path


def start(folder, home, out, *words):
    command = [
        sys.executable, "-m", "sft_cli", "prepare", "data=local", f"data.mix.local.path={folder / 'rows.jsonl'}",
        f"model.tokenizer={folder / 'tokenizer'}", "template=chatml", f"prepared_dir={out}", "data.workers=2", *words,
    ]  # fmt: skip
    environment = {**os.environ, "SFT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


def content(out):
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))["content"]


def wait_for_parts(process, home, number):
    """Wait until so many parts of the encoding are complete; return their directory."""
    for _ in range(5000):
        result = list((home / "stages" / "encoded").glob("*.partial/part-*.json"))
        if len(result) >= number:
            return result
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no part was ever written")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_preparation_resumes(folder, how):
    straight = folder / "straight"
    code, _, err = run(folder, folder / "home1", straight)
    assert code == 0, err
    home, out = folder / "home2", folder / "out"
    process = start(folder, home, out)
    parts = wait_for_parts(process, home, 2)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert ("stopped   nothing was written but finished parts" in out) == (how is signal.SIGINT)
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    assert not out.exists()
    assert [name.name for name in folder.iterdir() if ".sft-prepare-" in name.name] == []
    times = {part.name: part.stat().st_mtime_ns for part in parts}
    code, _, err = run(folder, home, out)
    assert code == 0, err
    (stage,) = (home / "stages" / "encoded").glob("*/stage.json")
    assert {name: (stage.parent / name).stat().st_mtime_ns for name in times} == times
    assert content(out) == content(straight)


def test_failed_run_stops_its_processes(folder):
    process = start(folder, folder / "home", folder / "out")
    wait_for_parts(process, folder / "home", 1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_growing_file_gives_one_error(folder):
    """The file changes during its fingerprint or its reading; either may detect the change."""
    process = start(folder, folder / "home", folder / "out")
    refused = 0
    while process.poll() is None:
        with open(folder / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write("\n")
        time.sleep(0.001)
    _, err = process.communicate()
    if process.returncode:
        refused = 1
        assert process.returncode == 2
        assert "Traceback" not in err
        assert "changed" in err
    assert (folder / "out").exists() == (not refused)
