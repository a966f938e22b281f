"""``~`` in paths that were typed."""

from pathlib import Path

import pytest

from sft_cli.cli.program import main
from sft_cli.utils.home import expand_home

PACKAGE = Path(__file__).resolve().parents[2] / "sft_cli"


def test_the_home_is_replaced_and_an_unknown_user_is_kept(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("~/rows.jsonl") == Path("/home/me/rows.jsonl")
    assert expand_home(Path("~nobody-has-this-name/x")) == Path("~nobody-has-this-name/x")
    assert expand_home("rows.jsonl") == Path("rows.jsonl")


def test_pathlib_which_raises_for_an_unknown_user_expands_no_path():
    assert [file.name for file in PACKAGE.rglob("*.py") if ".expanduser()" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("words", [["show", "~nobody-x"], ["eval", "~nobody-x"], ["chat", "~nobody-x"],
                                   ["compare", "~nobody-x", "~nobody-y"], ["inspect", "~nobody-x"],
                                   ["import", "~nobody-x"], ["board", "~nobody-x"], ["serve", "~nobody-x"],
                                   ["verify", "~nobody-x"], ["train", "recipe=~nobody-x/a.yaml"]])  # fmt: skip
def test_an_unknown_user_is_one_error(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sft", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1
    assert "Traceback" not in printed
