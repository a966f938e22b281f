"""`sft inspect`: selection of rows, printed formats, and errors for invalid words."""

import re

import pytest
from datasets import load_from_disk

from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.errors import SftError
from sft_cli.escape import escape_control
from sft_cli.report import gallery
from sft_cli.report.kinds import KINDS
from sft_cli.report.terminal import PLAIN_LEGEND, _ledger_summary, format_plain
from sft_cli.report.token_pieces import TextPiece
from tests.report.helpers import HOSTILE

STOP = "⟪stop: <|im_end|>⟫"


def test_row_of_known_text(inspect, prepared):
    lines = inspect("--row", "plain.jsonl:2")
    place = next(where for where in load_from_disk(str(prepared))["train"]["where"] if where.endswith("plain.jsonl:2"))
    assert lines == [
        PLAIN_LEGEND,
        "",
        f"{place}  plain  train  used  1 example  43 tokens, 19 with loss (44.2%)",
        "train 12: 43 tokens, 19 with loss (44.2%)",
        "⟪<|im_start|>⟫user↵",
        "Question 2?⟪<|im_end|>⟫↵",
        "⟪<|im_start|>⟫assistant↵",
        f"⟦Answer 2. Answer 2. {STOP}⟧",
    ]


def test_index_selects_an_example(inspect):
    assert inspect("--row", "12")[3:] == inspect("--row", "plain.jsonl:2")[3:]


def test_inspect_prints_the_reason_of_a_dropped_row(inspect):
    lines = inspect("--where", "mine.jsonl:12")
    assert lines[2].endswith("mine.jsonl:12  mine  train  dropped: empty instruction")
    shown = '  {"instruction": "", "output": "<b>no question</b>"}'
    assert lines[3:] == ["  field 'instruction' is ''; expected non-empty text", shown]


def test_text_is_searched_in_decoded_rows(inspect, prepared):
    """The regular expression searches decoded tokens; matching rows are printed completely."""
    places = [line.split()[0] for line in inspect("--text", r"question (7|9)\?", "-n", "5") if "used" in line]
    assert [place.rpartition("/")[2] for place in places] == ["plain.jsonl:7", "plain.jsonl:9"]
    lines = inspect("--text", r"assistant says 1\b", "-n", "1") + inspect("--text", "assistant says 28", "-n", "9")
    assert not [line for line in lines if "left out" in line]
    assert inspect("--text", "Answer", "-n", "2")[-1] == "more examples match; -n 4 prints more"
    assert (
        inspect("--text", "Answer 1[0-9]", "--source", "plain", "-n", "50")[-1]
        != "more examples match; -n 100 prints more"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere at all", "--text nowhere at all: no example matches\n  fix: --text is a regular expression"),
        (
            "(",
            "--text (: not a regular expression: missing ), unterminated subpattern at position 0\n"
            "  fix: to find the text literally: --text '\\('",
        ),
    ],
)
def test_text_without_match_is_an_error(inspect, text, message):
    with pytest.raises(SftError) as caught:
        inspect("--text", text)
    assert str(caught.value).startswith(message)


def test_worst_shortest(inspect, prepared):
    lines = inspect("--worst", "shortest", "-n", "4")
    counts = [int(result[1]) for line in lines if (result := re.match(r"train \d+: ([\d,]+) tokens", line))]
    every = sorted(map(len, load_from_disk(str(prepared))["train"]["input_ids"]))
    assert counts == every[:4]


def test_worst_offers_every_kind_of_the_gallery():
    assert set(KINDS.values()) == set(gallery.KINDS)


def test_ledger_line_shows_tags_and_scores():
    """A tag and a score with the same name are both shown."""
    line = {
        "where": "r:1\n", "source": "a", "split": "train", "fate": "dropped", "reason": "too dull", "filter": "quality",
        "detail": "2 of 5", "examples": 0, "copies": 0, "tokens": 0, "trained_tokens": 0, "truncated_messages": 0,
        "scores": {"language": 0.5, "quality": 2.0}, "tags": {"language": "en"},
    }  # fmt: skip
    output = ["a", "train", "dropped: too dull", "by quality", "language=en", "score language=0.5", "score quality=2"]
    assert list(_ledger_summary(line)) == output
    plain = {**line, "fate": "used", "reason": None, "examples": 2, "copies": 3, "tokens": 10, "trained_tokens": 4}
    assert list(_ledger_summary(plain))[2:] == [
        "used", "by quality", "2 examples × 3", "10 tokens, 4 with loss (40.0%)", *output[4:]
    ]  # fmt: skip


def test_worst_longest_and_shortest(inspect, prepared):
    rows = load_from_disk(str(prepared))["train"]
    longest = max(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    assert f"train {longest}: 867 tokens" in inspect("--worst", "longest", "-n", "1")[3]
    counts = [line for line in inspect("--worst", "longest", "-n", "4") if re.match(r"train \d+: ", line)]
    assert len(counts) == 4
    lengths = [int(re.findall(r": (\d+) tokens", line)[0]) for line in counts]
    assert lengths == sorted(lengths, reverse=True)


def test_worst_truncated(inspect):
    assert inspect("--worst", "truncated")[2].endswith("lost its 14 oldest messages")
    assert inspect("--worst", "truncated", "--source", "plain")[1:] == ["", "no row of train was truncated"]
    assert inspect("--split", "validation")[1:] == ["", "validation has no rows"]


def test_worst_lowest_trained_share(inspect, prepared):
    rows = load_from_disk(str(prepared))["train"]
    shares = [sum(label != -100 for label in row["labels"]) / len(row["labels"]) for row in rows]
    (line,) = [line for line in inspect("--worst", "lowest_share", "-n", "1") if line.startswith("train ")]
    assert line.startswith(f"train {shares.index(min(shares))}: ")


def test_random_rows_are_reproducible_and_of_the_source(inspect):
    assert inspect() == inspect("--worst", "random", "-n", "3")
    assert len([line for line in inspect("--source", "talk", "-n", "9") if "talk.jsonl" in line]) == 3


def test_more_matches_are_counted(inspect):
    lines = inspect("--where", "plain.jsonl", "-n", "2")
    assert len([line for line in lines if "plain.jsonl:" in line]) == 2
    assert lines[-1] == "22 more rows match; -n 24 prints all"


def test_inspect_location_with_source(inspect):
    places = [
        line.split()[0] for line in inspect("--where", "jsonl:1", "--source", "talk", "-n", "9") if ".jsonl:" in line
    ]
    assert [place.rpartition("/")[2] for place in places] == ["talk.jsonl:1"]


def test_inspect_excerpts_a_long_row_unless_selected_by_number(inspect):
    cut = "\n".join(inspect("--where", "talk.jsonl:3"))
    assert re.search(r"… \d+ tokens left out, \d+ with loss; --row \d+ prints them …", cut)
    whole = "\n".join(inspect("--row", "talk.jsonl:3"))
    assert "left out" not in whole
    assert whole.count(STOP) == 23


@pytest.mark.parametrize("number", range(1, len(HOSTILE) + 1))
def test_plain_format_without_marks_is_the_decoded_text(inspect, prepared, number):
    """Without its marks, the output is the decoded row; ⟦ and ⟧ enclose tokens with loss."""
    rows = load_from_disk(str(prepared))["train"]
    index = next(i for i, where in enumerate(rows["where"]) if where.endswith(f"mine.jsonl:{number}"))
    tokenizer = load_tokenizer(str(prepared / "tokenizer"))
    text = "\n".join(inspect("--row", str(index))[4:])
    bare = text.replace("↵\n", "\n").replace(STOP, "<|im_end|>").replace("⟪<|", "<|").replace("|>⟫", "|>")
    assert re.sub("[⟦⟧]", "", bare) == escape_control(tokenizer.decode_batch([rows[index]["input_ids"]])[0])
    trained = [id for id, label in zip(rows[index]["input_ids"], rows[index]["labels"], strict=True) if label != -100]
    assert "".join(re.findall("⟦(.*?)⟧", bare, re.DOTALL)) == escape_control(tokenizer.decode_batch([trained])[0])
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", text)


def test_format_plain_escapes_marks():
    """A row cannot contain text that looks like marks of trained tokens."""
    pieces = [TextPiece("⟦a⟧⟪stop: b⟫", 1, 0), TextPiece("⦅c⦆", 1, 1), TextPiece("d", 2, 1)]
    assert format_plain(pieces) == ("⟨U+27E6⟩a⟨U+27E7⟩⟨U+27EA⟩stop: b⟨U+27EB⟩⟦⟨U+2985⟩c⟨U+2986⟩⟧⦅d⦆")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--source", "plian"],
            "--source plian: the prepared data has no such source\n  fix: did you mean --source plain?",
        ),
        (
            ["--source", "zzz"],
            "--source zzz: the prepared data has no such source\n  fix: the sources are mine, plain, talk",
        ),
        (
            ["--row", "38"],
            "--row 38: the split train has 38 examples, numbered from 0\n"
            "  fix: --row 37, or --row FILE:LINE for a location",
        ),
        (
            ["--row", "0", "--split", "validation"],
            "--row 0: the split validation has no examples\n  fix: --split train, or --row FILE:LINE for a location",
        ),
        (
            ["--row", "other.jsonl:1"],
            "--row other.jsonl:1: the ledger has no row with this location\n"
            "  fix: --where PART searches for a part of a location such as rows.jsonl:17",
        ),
        (
            ["--where", "other"],
            "--where other: no row has this text in its location\n"
            "  fix: locations look like rows.jsonl:17; sft inspect without --where shows some",
        ),
    ],
)
def test_inspect_reports_missing_rows(inspect, arguments, message):
    with pytest.raises(SftError) as caught:
        inspect(*arguments)
    assert str(caught.value) == message


def test_inspect_suggests_the_nearest_location(inspect):
    with pytest.raises(
        SftError,
        match=r"--row talk\.jsonl: no row has exactly this location\n"
        r"  fix: did you mean --row .*talk.jsonl:1\?",
    ):
        inspect("--row", "talk.jsonl")
