"""Terminal layout: no text is lost, pieces that belong together stay whole, colors only where supported."""

import io
import random
import sys

import pytest

from sft_cli import console, progress, text_layout

LINES = [
    "memory    about 18.8 GiB of memory per process (7.1 MiB weights, 3.2 MiB training state), 19.0 GiB free on it",
    "ok    data      all rows: 1,171 used, 0 dropped, 0 truncated; 54,179 tokens, 7% carry loss; the longest has 120",
    "                frozen weights                                      7.1 MiB",
    "stopped   after step 12, saved; resume with: sft train --resume runs/alpaca-20260101-120000 trainer.epochs=2",
    "next      sft merge 'runs/with a space' --out merged",
    "plain prose without a label that is much longer than a terminal of forty or of eighty columns is wide",
    "データ" * 30 + " and " + "データ" * 10,
]


class Terminal(io.StringIO):
    """A stream that reports to be a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("width", [40, 80, 100])
def test_wrapping_changes_only_spaces_between_words(line, width):
    made = text_layout.wrap(line, width)
    assert made.split() == line.split()
    longest = max(map(text_layout.display_width, line.split()))
    commands = [part for part in made.split("\n") if "sft " in part]
    for part in made.split("\n"):
        assert text_layout.display_width(part) <= max(width, longest + text_layout.LABEL_WIDTH) or part in commands


@pytest.mark.parametrize("width", range(30, 100, 7))
def test_wrap_keeps_numbers_with_units_and_commands_whole(width):
    assert "18.8 GiB" in text_layout.wrap(LINES[0], width)
    assert "19.0 GiB" in text_layout.wrap(LINES[0], width)
    assert "sft train --resume runs/alpaca-20260101-120000 trainer.epochs=2" in text_layout.wrap(LINES[3], width)
    assert "sft merge 'runs/with a space' --out merged" in text_layout.wrap(LINES[4], width)


def test_wrap_keeps_a_pasted_row_whole():
    row = '{"instruction": "Name the capital of France in one word.", "output": "Paris"}'
    assert row in text_layout.wrap(f"    example: {row}", 40).split("\n")[1]


def test_a_continued_line_begins_below_its_text():
    labelled, bare = text_layout.wrap(LINES[0], 60).split("\n"), text_layout.wrap(LINES[5], 60).split("\n")
    assert all(part.startswith(" " * 10) and part[10] != " " for part in labelled[1:])
    assert all(not part.startswith(" ") for part in bare[1:])
    assert all(part.startswith(" " * 16) for part in text_layout.wrap(LINES[1], 60, 16).split("\n")[1:])


@pytest.mark.parametrize("seed", range(40))
def test_a_table_never_breaks_a_number_or_a_short_word(seed):
    """Of random tables every cell is whole on one line, and no line is wider than the terminal."""
    chance = random.Random(seed)
    columns = [chance.choice(["rows", "trained tokens", "not sampled", "source", "format"]) for _ in range(12)]
    kinds = [chance.random() < 0.6 for _ in columns]
    rows = [
        [chance.randrange(10**9) if kind else chance.choice(["alpaca", "messages", "a b c d e f"]) for kind in kinds]
        for _ in range(4)
    ]
    drawn = console._draw_table(columns, rows, 80)
    assert max(map(len, drawn.splitlines())) <= 80
    words = drawn.split()
    for row in rows:
        for value in row:
            assert {f"{value:,}"} <= set(words) if isinstance(value, int) else set(value.split()) <= set(words)
    assert {word for name in columns for word in name.split()} <= set(words)


def test_a_table_that_fits_is_one_block():
    assert console._draw_table(["source", "rows"], [["mine", 3]], 80).count("mine") == 1
    many = console._draw_table(["source", *(f"column{i}" for i in range(20))], [["mine", *range(20)]], 80)
    assert many.count("mine") == many.count("source") > 1


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_supports_color(monkeypatch, terminal, environment, expected):
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    assert text_layout.supports_color(Terminal() if terminal else io.StringIO()) is expected


def test_only_the_mark_of_a_message_is_coloured():
    text = "error: rows.jsonl:1: a problem\n  fix: error: is no mark here"
    assert (
        text_layout.colorize_labels(text)
        == "\x1b[1;31merror:\x1b[0m rows.jsonl:1: a problem\n\x1b[36m  fix:\x1b[0m error: is no mark here"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1, "example"), "1 example"),
        ((0, "row"), "0 rows"),
        ((1200, "row"), "1,200 rows"),
        ((2, "pass", "passes"), "2 passes"),
    ],
)
def test_a_noun_agrees_with_its_number(arguments, expected):
    assert console.counted(*arguments) == expected


def test_a_terminal_gets_wrapped_lines_and_a_pipe_whole_ones(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    for stream, lines in ((Terminal(), 3), (io.StringIO(), 1)):
        monkeypatch.setattr("sys.stdout", stream)
        console.say(LINES[0])
        assert len(stream.getvalue().splitlines()) == lines


def test_transcript_contains_output_before_and_after_its_file_is_set(monkeypatch, tmp_path, capsys):
    """Whole lines without colours, the command first, and no secret."""
    file = tmp_path / "console.log"
    with console.recorded("sft train recipe=quickstart", lambda text: text.replace("hunter2", "***")):
        console.say(LINES[0])
        console.table(["source", "rows"], [["mine", 3]])
        assert not file.exists()
        console.keep_in(file)
        console.say("password hunter2 \x1b[31m")
        console.note("for the file alone")
    console.say("of another command")
    first, *rest = file.read_text(encoding="utf-8").splitlines()
    assert first.startswith("$ sft train recipe=quickstart  # 20")
    assert rest[0] == LINES[0]
    assert any(line.split() == ["mine", "3"] for line in rest)
    assert rest[-2:] == ["password *** ␛[31m", "for the file alone"]
    assert "for the file alone" not in capsys.readouterr().out


def test_unwritable_transcript_does_not_stop_the_command(tmp_path, capsys):
    with console.recorded("sft train", str):
        console.keep_in(tmp_path / "missing" / "console.log")
        console.say("shown all the same")
    assert capsys.readouterr().out == "shown all the same\n"


def test_the_status_line_is_for_terminals_and_gives_way(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("sys.stdout", io.StringIO())
    progress.status("reading a rather long list of rows")
    console.say("done")
    assert sys.stderr.getvalue() == "reading a rather lo\r\x1b[2K"
    monkeypatch.setattr("sys.stderr", io.StringIO())
    progress.status("nothing in a log")
    assert sys.stderr.getvalue() == ""
