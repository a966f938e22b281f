"""Modules that a start does not import: each takes seconds, and none is needed for the first step."""

import os
import subprocess
import sys

import pytest

TRAIN = """
import json, sys
from sft_cli.cli import main
sys.argv = ["sft", *sys.argv[1:]]
try:
    main()
finally:
    print(json.dumps(sorted({"bitsandbytes", "datasets", "torch", "transformers"} & set(sys.modules))))
"""


@pytest.fixture
def sft(tmp_path):
    """Run a command line in a new process and return exit code, last line of the output, and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        environment = {**os.environ, "SFT_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", TRAIN, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.returncode, done.stdout.splitlines()[-1], done.stderr

    return run


@pytest.mark.slow
def test_a_run_of_the_quickstart_loads_neither_bitsandbytes_nor_datasets(sft, tmp_path):
    assert sft("prepare", "recipe=quickstart")[0] == 0
    words = ("trainer.max_steps=1", "eval.compare_after_training=false", f"run_dir={tmp_path / 'run'}")
    assert sft("train", "recipe=quickstart", *words)[:2] == (0, '["torch", "transformers"]')


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("train", "trainer.lrr=1"), "error: command line: there is no key trainer.lrr"),
        (("train", "recipe=quickstart", "trainer.lr=-1"), "error: command line: trainer.lr is -1"),
        (("train", "--resume", "nowhere"), "error: nowhere:"),
    ],
)
def test_a_refused_run_does_not_import_torch(sft, words, error):
    code, imported, error_output = sft(*words)
    assert (code, imported) == (2, "[]")
    assert error_output.startswith(error)
