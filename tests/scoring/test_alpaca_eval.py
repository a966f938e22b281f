"""Verdicts that AlpacaEval publishes: win rates of the leaderboard, and an answer that is made for the judge."""

import json
from pathlib import Path

import pytest

from sft_cli.errors import SftError
from sft_cli.scoring.judge.alpaca_eval import preference_as_win, raw_win_rate, read_alpaca_eval
from sft_cli.scoring.judge.answer_checks import check_answers
from sft_cli.scoring.judge.audit import JudgeAudit, audit_limits
from sft_cli.scoring.judge.length_control import fit_length_control
from sft_cli.scoring.judge.settings import JudgeLimits


@pytest.mark.parametrize(("preference", "win"), [(1, 0), (2, 1), (1.25, 0.25), (1.5, 0.5), (0, 0.5), (None, None)])
def test_preferences(preference, win):
    assert preference_as_win(preference) == win


def test_rows_and_mistakes(tmp_path):
    file = tmp_path / "annotations.json"
    row = {"instruction": "Hi", "output_1": "a", "output_2": "b", "preference": 0.0}
    file.write_text(json.dumps([row, {**row, "preference": 2}, {**row, "preference": None}]))
    found = read_alpaca_eval(file)
    assert ([entry.win for entry in found], raw_win_rate(found)) == ([0.5, 1, None], 75)
    assert (found[0].answer, found[0].baseline) == ("b", "a")
    file.write_text(json.dumps({**row, "preference": 0.5}))
    with pytest.raises(SftError, match=r"annotations.json:1: preference is 0.5; it must be from 1 to 2"):
        read_alpaca_eval(file)
    file.write_text('{"instruction": "Hi"}')
    with pytest.raises(SftError, match="the row lacks output_1, output_2, preference"):
        read_alpaca_eval(file)


@pytest.fixture(scope="module")
def published():
    """The published verdicts of two models, read once."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "material" / "eval"
    if not folder.is_dir():
        pytest.skip("../shared/material is absent")
    return {name: read_alpaca_eval(folder / f"alpaca_eval_{name}.jsonl") for name in ("NullModel", "phi-2-sft")}


@pytest.mark.material
@pytest.mark.parametrize(("name", "win_rate"), [("phi-2-sft", 3.98), ("NullModel", 76.92)])
def test_published_win_rates_are_reproduced(published, name, win_rate):
    rows = published[name]
    assert len(rows) == 805
    assert raw_win_rate(rows) == pytest.approx(win_rate, abs=0.01)


@pytest.mark.material
def test_the_null_model_is_withheld_and_an_ordinary_model_is_not(published):
    withheld = {}
    for name, rows in published.items():
        wins, lengths = [row.win for row in rows], [len(row.answer) - len(row.baseline) for row in rows]
        checks = check_answers([row.item for row in rows], [row.answer for row in rows])
        audit = JudgeAudit(length_slope=fit_length_control(wins, lengths).slope, **checks)
        withheld[name] = audit_limits(audit, JudgeLimits())
    assert withheld["phi-2-sft"] == []
    assert withheld["NullModel"] == [
        "100.0% of the questions have the same answer (limit repeated_answers: 20.0%)",
        "100.0% of the answers imitate a judge's prompt (limit judge_markers: 2.0%)",
    ]
