"""The lines that say how far a long piece of work is."""

import time

import pytest

from sft_cli.console import progress


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


def test_on_a_terminal_the_bar_vanishes(clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    with progress("answers", 4) as shown:
        clock[0] += 1
        shown.advance(3)
    text = "answers   [===============     ] 3 of 4 rows, 3 rows/s, 0 s left"
    assert capsys.readouterr() == ("", f"\r\x1b[2K{text}\r\x1b[2K")
