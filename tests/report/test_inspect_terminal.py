"""``sft inspect`` in a terminal, in a pipe and in a new process: colours, marks, and control characters of data."""

import os
import re
import subprocess
import sys

import pytest

from sft_cli.report.terminal import PLAIN_LEGEND


@pytest.fixture
def terminal(monkeypatch):
    """Simulate a terminal with colours by FORCE_COLOR."""
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    return monkeypatch


def test_colours_in_a_terminal(inspect, terminal):
    """NO_COLOR keeps the underline and removes colours; --plain and a dumb terminal give marks."""
    coloured = "\n".join(inspect("--row", "12", plain=False))
    assert "\x1b[4;32mAnswer 2. Answer 2. \x1b[0m\x1b[1;7;33m<|im_end|>\x1b[0m" in coloured
    assert PLAIN_LEGEND not in coloured
    terminal.setenv("NO_COLOR", "1")
    without = "\n".join(inspect("--row", "12", plain=False))
    assert "\x1b[4mAnswer 2. Answer 2. \x1b[0m\x1b[1;7m<|im_end|>\x1b[0m" in without
    assert not re.search(r"\x1b\[[\d;]*3\dm", without)
    marked = inspect("--row", "12")
    assert (marked[0], "\x1b" in "".join(marked)) == (PLAIN_LEGEND, False)
    terminal.setenv("TERM", "dumb")
    assert inspect("--row", "12", plain=False) == marked


def test_output_to_a_pipe_has_marks(inspect, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert inspect("--row", "12", plain=False) == inspect("--row", "12", plain=True)


def test_escape_sequences_in_data_are_not_printed(inspect, terminal):
    text = "\n".join(inspect("--row", "mine.jsonl:6", plain=False))
    bare = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "␛[31mred␛]0;title␇" in bare
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", bare)


def run(*arguments, **environment):
    """Run the command in a new process."""
    command = [sys.executable, "-m", "sft_cli", "inspect", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, encoding="utf-8")


@pytest.mark.slow
def test_inspect_with_an_ascii_terminal(prepared):
    done = run(str(prepared), "--row", "mine.jsonl:9", "--plain", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u21b5" in done.stdout


def test_inspect_with_a_closed_pipe(prepared):
    """``sft inspect … | head -1``: the reader closes the pipe before the first line."""
    words = [str(prepared), "-n", "3", "--plain"]
    command = subprocess.Popen(
        [sys.executable, "-m", "sft_cli", "inspect", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 0


def test_mistake_has_exit_code_2_and_no_traceback(tmp_path):
    done = run(str(tmp_path), "wrst=longest")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: wrst=longest: sft inspect {tmp_path} takes no further words\n"
        f"  fix: remove it: sft inspect {tmp_path}\n"
    )
