"""Progress: periodic lines in a log, bars on a terminal."""

import io
import re
import sys
import time

import pytest

from sft_cli import console
from sft_cli import progress as progress_module
from sft_cli.progress import Progress, progress

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_short_work_says_nothing(clock, capsys):
    with progress("encode    mine", 100) as shown:
        clock[0] += 29
        shown.advance(50)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("total", "before", "rows", "seconds", "line"),
    [
        (100_000, 0, 40_000, 40, "[========            ] 40,000 of 100,000 rows, 1,000 rows/s, 60 s left"),
        (100_000, 30_000, 10_000, 40, "[========            ] 40,000 of 100,000 rows, 250 rows/s, 4 min left"),
        (None, 0, 40_000, 40, "40,000 rows, 1,000 rows/s"),
        (10, 0, 40, 40, "[====================] 40 of 10 rows, 1 rows/s, 0 s left"),
        (10_000_000, 0, 40_000, 40, "[                    ] 40,000 of 10,000,000 rows, 1,000 rows/s, 2.8 h left"),
    ],
)
def test_a_log_has_a_line_now_and_then(clock, capsys, total, before, rows, seconds, line):
    with progress("encode    mine", total, before) as shown:
        clock[0] += seconds
        shown.advance(rows)
        clock[0] += 1
        shown.advance(0)
    assert capsys.readouterr() == ("", f"encode    mine {line}\n")


@pytest.mark.parametrize(
    ("before", "share", "line"),
    [
        (0.0, 0.4, "[========            ] 40,000 rows, 1,000 rows/s, 60 s left"),
        (0.5, 0.6, "[============        ] 40,000 rows, 1,000 rows/s, 3 min left"),
        (0.5, 0.5, "40,000 rows, 1,000 rows/s"),
        (0.0, 1.0, "[====================] 40,000 rows, 1,000 rows/s, 0 s left"),
    ],
)
def test_where_the_number_of_rows_is_not_known_the_share_of_the_work_tells(clock, capsys, before, share, line):
    with progress("rows      mine", share=before) as shown:
        clock[0] += 40
        shown.advance(40_000, share)
    assert capsys.readouterr() == ("", f"rows      mine {line}\n")


def test_an_evaluation_counts_from_its_first_batch(clock, capsys):
    with progress("answers", unit="prompts") as shown:
        for seconds, done in ((31, 500), (10, 1000), (20, 1500)):
            clock[0] += seconds
            shown.update(done, 2000)
    assert capsys.readouterr() == (
        "",
        "answers   500 of 2,000 prompts\n"
        "answers   [===============     ] 1,500 of 2,000 prompts, 33 prompts/s, 15 s left\n",
    )


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


def use_terminal(monkeypatch):
    """Make a terminal of 60 columns without colors standard error, and return it."""
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr(progress_module, "_bars", None)
    for name, value in {"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return sys.stderr


def test_on_a_terminal_a_bar_is_drawn_and_removed(clock, monkeypatch):
    terminal = use_terminal(monkeypatch)
    with progress("answers", 4) as shown:
        clock[0] += 1
        shown.advance(1)
        clock[0] += 1
        shown.advance(2)
    written = terminal.getvalue()
    drawn = [line for line in CONTROL.sub("\n", written).split("\n") if line.strip()]
    assert drawn[0].split(maxsplit=1)[0] == "answers"
    assert drawn[-1].endswith("1 s left 3 of 4 rows, 2 rows/s")
    assert written.endswith("\r\x1b[1A\x1b[2K")  # up one line, and that line is cleared
    assert "\x1b[?25l" not in written  # the cursor stays


def test_a_bar_is_cut_at_the_width_of_the_terminal_and_keeps_the_remaining_time(clock, monkeypatch):
    terminal = use_terminal(monkeypatch)
    shown = Progress("train")
    clock[0] += 1
    shown.draw(0.3, "12/40, 30 s left", "epoch 0.50  loss 2.3344 (nll 2.2, kl 0.1)  lr 1.00e-04  12,345 tokens/s")
    shown.close()
    lines = CONTROL.sub("\n", terminal.getvalue()).split("\n")
    line = next(line for line in lines if line.startswith("train"))
    assert "12/40, 30 s left epoch 0.50" in line
    assert line.rstrip().endswith("…")
    assert len(line) <= 60


def test_printed_lines_and_bars_do_not_mix(clock, monkeypatch):
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr("sys.stdout", terminal)
    with progress("answers", 4) as shown:
        clock[0] += 1
        shown.advance(1)
        console.say("a line")
        clock[0] += 1
        shown.advance(1)
    written = terminal.getvalue()
    assert "\r\x1b[1A\x1b[2Ka line\n" in written
    assert written.rindex("2 of 4") > written.index("a line")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_bar_is_removed_after_an_error(clock, error, monkeypatch):
    terminal = use_terminal(monkeypatch)

    def fail():
        with progress("answers", 4) as shown:
            clock[0] += 1
            shown.advance(1)
            raise error

    with pytest.raises(error):
        fail()
    assert terminal.getvalue().endswith("\r\x1b[1A\x1b[2K")


def test_other_processes_of_a_run_show_no_progress(clock, monkeypatch):
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr(progress_module, "_enabled", False)
    with progress("answers", 4) as shown:
        clock[0] += 60
        shown.advance(1)
        progress_module.status("loading")
    assert terminal.getvalue() == ""
