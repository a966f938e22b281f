"""The live panel of ``sft train`` on a terminal, and ``--quiet``."""

import re

from sft_cli import console
from sft_cli import progress as progress_module
from sft_cli.progress import clear_progress, draw_block
from sft_cli.train.monitoring.metrics import MetricsLog, StepMetrics
from sft_cli.train.monitoring.panel import sparkline
from sft_cli.train.monitoring.trackers import Trackers
from tests.test_progress import Terminal


def use_terminal(monkeypatch) -> Terminal:
    """Make one terminal of 80 columns standard output and standard error, and return it."""
    shown = Terminal()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", shown)
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(progress_module, "_block", [])
    monkeypatch.setattr(progress_module, "_enabled", True)
    return shown


def step(number: int) -> StepMetrics:
    return StepMetrics(
        number, number / 4, 4.0 / number, {"nll": 4.0 / number}, 1e-4, 0.5, 4, 40, 40, 20, 0.5, 80.0, 2**20, 0.0
    )


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows after it received this text."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[\d*A|\x1b\[J|\r|\n)", written):
        if part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[J":
            lines = [*lines[:row], ""]
        elif part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part != "\r":
            lines[row] += part
    return lines


def test_the_panel_replaces_itself_and_lines_are_printed_above(tmp_path, monkeypatch):
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr("sft_cli.train.monitoring.panel.TERMINAL_SECONDS", 0.0)
    log = MetricsLog(tmp_path / "metrics.jsonl", 4, 0, Trackers({}))
    for number in (1, 2, 3):
        log.step(step(number))
    log.say_evaluation("eval      step 3: held-out loss 1.0000")
    log.say_sample("sample    hostile\x1b[2J -> " + "x" * 100)
    console.say("warning: a line above")
    log.step(step(4))
    lines = screen(terminal.getvalue())
    assert lines[0] == "warning: a line above"
    assert [line.split()[0] for line in lines[1:]] == ["train", "loss", "speed", "eval", "sample"]
    assert "100%  step 4/4  0 s, 0 s left" in lines[1]
    assert "80 tokens/s  lr 1.00e-04  grad norm 0.5  1.0 MiB" in lines[3]
    assert all(len(line) <= 77 for line in lines)
    assert lines[5].endswith("…")
    log.close()
    rest = [line for line in screen(terminal.getvalue()) if line]
    assert [line.split()[0] for line in rest] == ["warning:", "eval", "step"]


def test_a_narrower_terminal_is_cleared_as_far_as_it_has_wrapped_the_lines(monkeypatch):
    terminal = use_terminal(monkeypatch)
    draw_block(["a" * 50, "b" * 10])
    monkeypatch.setenv("COLUMNS", "30")
    clear_progress()
    assert terminal.getvalue().endswith("\x1b[2A\r\x1b[J")


def test_a_dumb_terminal_gets_lines(tmp_path, monkeypatch):
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    log = MetricsLog(tmp_path / "metrics.jsonl", 4, 0, Trackers({}))
    log.step(step(1))
    log.close()
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().startswith("step      1/4  epoch 0.25")


def test_sparkline():
    assert sparkline([8, 4, 0], "utf-8") == "█▅▁"
    assert sparkline([1, float("nan"), 2], "utf-8") == "▁█"
    assert sparkline([1, 1], "utf-8") == "▁▁"
    assert sparkline([1], "utf-8") == sparkline([1, 2], "ascii") == sparkline([], None) == ""
    assert len(sparkline(range(1000), "utf-8")) == 40


def test_quiet_output_has_warnings_and_results_only(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(console, "_is_quiet", False)
    monkeypatch.setattr(progress_module, "_enabled", True)
    with console.recorded("sft train --quiet", str):
        console.keep_in(tmp_path / "console.log")
        console.be_quiet()
        for text in ("plan      4 steps", "warning: w", "finished  4 steps", "next      sft chat"):
            console.say(text)
        console.table(("a",), [(1,)])
    assert capsys.readouterr().out == "warning: w\nfinished  4 steps\n"
    assert "plan      4 steps" in (tmp_path / "console.log").read_text()
