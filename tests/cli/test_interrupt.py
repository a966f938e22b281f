"""Ctrl-C between Enter and the first step: one line, exit code 130, no traceback, no half-written run."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STOP_AT = """
import importlib.abc, os, signal, sys

class InterruptingFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
sys.meta_path.insert(0, InterruptingFinder())
sys.argv = ["sft", *{words!r}]
from sft_cli.cli import main
main()
"""
"""Runs a command line and presses Ctrl-C when a module is imported."""


def on_terminal(program: str, home: Path) -> tuple[int, str]:
    """Return the exit code of a program, and everything it shows on a terminal of its own."""
    main_end, other_end = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "RANK"} | {"SFT_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env=environment,
        cwd=home,
        start_new_session=True,
    )
    os.close(other_end)
    shown = b""
    while select.select([main_end], [], [], 60)[0]:
        try:
            shown += (part := os.read(main_end, 4096))
        except OSError:  # the last process of the terminal has ended
            break
        if not part:
            break
    os.close(main_end)
    return process.wait(timeout=60), shown.decode()


TRAIN = ("train", "recipe=quickstart", "run_dir=run", "trainer.max_steps=1")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        pytest.param("typer", TRAIN, id="before the command"),
        pytest.param("sft_cli.config.redaction", TRAIN, id="before the settings"),
        pytest.param("sft_cli.config.compose", TRAIN, id="while the settings are read"),
        pytest.param("torch", TRAIN, id="while torch is loaded", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_prints_one_line_and_exits_with_130(module, words, tmp_path):
    code, shown = on_terminal(STOP_AT.format(module=module, words=words), tmp_path)
    assert (code, shown.count("interrupted"), shown.endswith("\r\ninterrupted\r\n")) == (130, 1, True), shown
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()


def test_first_line_comes_before_the_settings_are_read(tmp_path):
    _, shown = on_terminal(STOP_AT.format(module="sft_cli.config.compose", words=TRAIN), tmp_path)
    assert shown.startswith("sft train: reading the settings")


def test_a_process_of_a_launcher_leaves_the_line_to_it(tmp_path):
    program = STOP_AT.format(module="typer", words=("doctor",))
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "RANK": "1"}, capture_output=True, text=True, cwd=tmp_path
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_handler_of_the_caller_stays():
    from sft_cli.cli.interrupts import exit_on_interrupt

    called = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
    try:
        with exit_on_interrupt():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert called == [signal.SIGINT]
