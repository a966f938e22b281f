"""The table and the samples of an evaluation; a report is written atomically."""

import json

import pytest

from sft_cli.eval.evaluate import EvalMetrics, EvalScores, ScoredAnswer, combine_metrics, sample_lines
from sft_cli.eval.exact_match import Question
from sft_cli.eval.heldout import GroupLoss, HeldOutLosses
from sft_cli.eval.report import score_table, write_eval_report


def scores(loss: float, items: int, match: float | None, stopped: float | None) -> EvalScores:
    return EvalScores(loss, 2 * loss, 10, 4, items, match, stopped)


ONE = EvalMetrics(scores(1.0, 4, 0.5, 0.75), {"a": scores(1.0, 4, 0.5, 0.75)})
TWO = EvalMetrics(scores(2.0, 2, 0.5, 1.0), {"a": scores(1.0, 2, 0.5, 1.0), "texts": scores(3.0, 0, None, None)})


def test_the_table_of_one_source():
    assert score_table(ONE) == (
        ["source", "examples", "loss", "perplexity", "exact match %", "stopped %"],
        [["a", 4, 1.0, 2.0, 50.0, 75.0]],
    )


def test_the_table_of_several_sources_ends_with_all():
    assert score_table(TWO) == (
        ["source", "examples", "answered", "loss", "perplexity", "exact match %", "stopped %"],
        [
            ["a", 4, 2, 1.0, 2.0, 50.0, 100.0],
            ["texts", 4, 0, 3.0, 6.0, None, None],
            ["all", 4, 2, 2.0, 4.0, 50.0, 100.0],
        ],
    )


def test_the_table_with_a_base_has_a_row_for_each_model_and_fits_80_columns():
    base = EvalMetrics(scores(5.0, 4, 0.0, 0.0), {"a": scores(5.0, 4, 0.0, 0.0)})
    assert score_table(ONE, base) == (
        ["source", "model", "examples", "loss", "perplexity", "exact match %", "stopped %"],
        [["a", "base", 4, 5.0, 10.0, 0.0, 0.0], ["a", "tuned", 4, 1.0, 2.0, 50.0, 75.0]],
    )
    columns, rows = score_table(ONE, base)
    natural = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    assert sum(natural) + 3 * (len(natural) - 1) <= 78


def test_the_table_without_answers_has_losses_only():
    without_answers = EvalMetrics(scores(1.0, 0, None, None), {"a": scores(1.0, 0, None, None)})
    assert score_table(without_answers) == (["source", "examples", "loss", "perplexity"], [["a", 4, 1.0, 2.0]])


def test_scores_per_source_and_overall():
    items = [Question("w", source, (1, 2), "q", "a") for source in "xxy"]
    answers = [
        ScoredAnswer("a", True, True, False),
        ScoredAnswer("b", False, True, False),
        ScoredAnswer("a", True, False, False),
    ]
    loss = GroupLoss(1.0, 2.0, 3, 4)
    found = combine_metrics(HeldOutLosses(loss, {"x": loss, "y": loss, "z": loss}), items, answers)
    assert (found.overall.exact_match, found.overall.stopped_share) == (2 / 3, 2 / 3)
    assert [(one.items, one.exact_match, one.stopped_share) for one in found.sources.values()] == [
        (2, 0.5, 1.0),
        (1, 1.0, 0.0),
        (0, None, None),
    ]


def test_samples_are_spread_evenly_on_one_line_each():
    items = [Question(f"rows.jsonl:{i}", "s", (1, 2), f"Ask\n  {i}", f"is {i}") for i in range(6)]
    lines = sample_lines(items, {"base": ["\nno\n"] * 6, "tuned": [f"is\n{i}" for i in range(6)]}, 2)
    assert lines == [
        *("rows.jsonl:0", "  prompt    Ask 0", "  expected  is 0", "  base      no", "  tuned     is 0"),
        *("rows.jsonl:3", "  prompt    Ask 3", "  expected  is 3", "  base      no", "  tuned     is 3"),
    ]
    assert sample_lines(items, {"base": ["x"] * 6, "tuned": ["x"] * 6}, 0) == []
    assert len(sample_lines(items[:1], {"base": ["x"], "tuned": ["x"]}, 3)) == 5


def test_a_long_prompt_shows_its_end_and_a_long_answer_its_beginning():
    item = Question("w", "s", (1, 2), "a" * 300 + "end", "begin" + "b" * 300)
    prompt, expected, before, _ = sample_lines([item], {"before": ["c" * 160], "after": ["d"]}, 1)[1:]
    assert prompt == "  prompt    …" + "a" * 157 + "end"
    assert expected == "  expected  begin" + "b" * 155 + "…"
    assert before == "  before    " + "c" * 160


def test_control_characters_in_samples_are_replaced():
    lines = sample_lines([Question("w", "s", (1, 2), "q", "a")], {"before": ["\x1b[2J\x0eno"], "after": ["a"]}, 1)
    assert lines[3] == "  before    \ufffd[2J\ufffdno"


def test_a_report_is_written_atomically(tmp_path):
    file = tmp_path / "eval" / "heldout.json"
    write_eval_report({"answer": "Zürich"}, file)
    assert json.loads(file.read_text(encoding="utf-8")) == {"answer": "Zürich"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_eval_report({"loss": float("nan")}, file)
    assert json.loads(file.read_text(encoding="utf-8")) == {"answer": "Zürich"}
