"""What `sft inspect` says to words it does not understand, verbatim."""

import json

import pytest

from sft_cli.errors import Mistakes, SftError
from sft_cli.report import words
from sft_cli.report.inspect import inspect_command


def mistakes(*arguments):
    """What is said about a command line."""
    with pytest.raises(SftError) as caught:
        words.read(arguments)
    error = caught.value
    return [str(one) for one in (error.errors if isinstance(error, Mistakes) else (error,))]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [],
            "sft inspect: no prepared directory is named\n  fix: sft inspect prepared=DIR, as sft prepare printed it",
        ),
        (["prepared=x", "wrst=longest"], "wrst: sft inspect has no such key\n  fix: did you mean worst?"),
        (["prepared_dir=x"], "prepared_dir: sft inspect has no such key\n  fix: did you mean prepared?"),
        (
            ["prepared=x", "zzz=1"],
            "zzz: sft inspect has no such key\n  fix: the keys are prepared, row, where, text, worst, source, n, split",
        ),
        (
            ["prepared=x", "worst=longst"],
            "worst=longst: it is none of truncated, lowest_share, longest, shortest, random\n"
            "  fix: did you mean worst=longest?",
        ),
        (
            ["prepared=x", "split=test"],
            "split=test: it is none of train, validation\n  fix: choose one of train, validation",
        ),
        (["prepared=x", "n=0"], "n=0: it is not a number of rows, 1 or more\n  fix: write n=3 for example"),
        (["prepared=x", "n=-1"], "n=-1: it is not a number of rows, 1 or more\n  fix: write n=3 for example"),
        (["prepared="], "prepared: it has no value\n  fix: write prepared=VALUE, or leave it out"),
        (["prepared=x", "n=1", "n=2"], "n: it is given twice\n  fix: keep one of the two, n=2"),
        (
            ["prepared=x", "row=1", "worst=longest"],
            "sft inspect: row and worst each choose the rows\n  fix: keep one of row, worst",
        ),
        (
            ["prepared=x", "row=1", "source=a", "n=2"],
            "source: it has no effect, row= names one row\n  fix: leave out source and n",
        ),
        (
            ["longest"],
            "command line: 'longest' is not of the form key=value\n  fix: write key=value, such as worst=longest",
        ),
        (["worst"], "command line: 'worst' is not of the form key=value\n  fix: write worst=VALUE"),
        (
            ["run=runs/x"],
            "run=runs/x: sft inspect looks into prepared data, not into a run\n  fix: sft inspect prepared=DIR",
        ),
    ],
)
def test_what_is_said_about_wrong_words(arguments, said):
    assert mistakes(*arguments) == [said]


def test_several_mistakes_are_told_at_once():
    assert len(mistakes("a=1", "b", "n=")) == 3


def test_a_bare_directory_is_told_its_key(tmp_path):
    (said,) = mistakes(str(tmp_path))
    assert said.endswith(f"fix: write prepared={tmp_path}")


def test_a_run_is_told_where_its_data_lie(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"prepared_dir": "/data/x", "fingerprint": "f"}), encoding="utf-8")
    (said,) = mistakes(f"run={tmp_path}")
    assert said.endswith("fix: sft inspect prepared=/data/x")


def test_a_directory_that_is_none(tmp_path):
    with pytest.raises(SftError, match="not a prepared directory"):
        inspect_command([f"prepared={tmp_path}"], plain=True)
