"""From verdicts to scores: reducers, intervals, clusters, choices, and files that an interruption cut."""

import json

import pytest

from sft_cli.config.schema.config import EvalConfig
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.errors import SftError
from sft_cli.eval.suite_session import SuiteOutcome, print_outcomes
from sft_cli.scoring.metrics.text_match import ExactMatch
from sft_cli.scoring.types import Answer, Item, Verdict
from sft_cli.suites.choices import score_choices
from sft_cli.suites.chosen import chosen_suites
from sft_cli.suites.items import LoadedSuite, SuiteItem
from sft_cli.suites.limits import EvalLimits
from sft_cli.suites.questions import questions_suite
from sft_cli.suites.results import SuiteResults, json_line
from sft_cli.suites.score_table import metric_table
from sft_cli.suites.scorers import CombinedScorers
from sft_cli.suites.scores import item_scores


def test_reducers_of_several_answers():
    answers = [({"answer": text}, Verdict({"exact_match": score})) for text, score in
               (("a", 0.0), ("b", 1.0), ("b", 1.0), ("c", 0.0))]  # fmt: skip
    assert item_scores(["mean", "majority", "pass@2"], answers) == {
        "exact_match": 0.5,
        "exact_match_majority": 1.0,
        "exact_match_pass@2": pytest.approx(5 / 6),
    }
    first = [*answers[:1], *answers[3:]]
    assert item_scores(["majority"], first) == {"exact_match_majority": 0.0}


def test_choices_are_compared_by_likelihood_and_by_likelihood_per_byte():
    entry = SuiteItem(Item("1", ()), "x:1", ("short", "much longer text"), 1)
    choices = [{"logprob": -3.0, "num_bytes": 5}, {"logprob": -4.0, "num_bytes": 16}]
    verdict = score_choices(entry, choices)
    assert verdict.scores == {"acc": 0.0, "acc_norm": 1.0}
    assert verdict.reason == "the most likely choice is 'short', not 'much longer text'"
    theirs = [{**choice, "lm_eval": {"logprob": value}} for choice, value in zip(choices, (-9.0, -1.0), strict=True)]
    assert score_choices(entry, theirs).scores == {
        "acc": 0.0, "acc_norm": 1.0, "lm_eval_acc": 1.0, "lm_eval_acc_norm": 1.0,
    }  # fmt: skip


def test_scores_of_several_scorers_are_given_together():
    class Length:
        def score(self, item, answer):
            return Verdict({"length": float(len(answer.text))}, "", None, "long")

        def summarize(self, items, verdicts):
            return {"longest": max(verdict.scores["length"] for verdict in verdicts)}

    scorer, item = CombinedScorers([ExactMatch(), Length()]), Item("1", (), ("Yes",))
    verdict = scorer.score(item, Answer("yes."))
    assert (verdict.scores, verdict.label, verdict.extracted) == ({"exact_match": 1.0, "length": 4.0}, "long", "yes")
    assert scorer.summarize([item], [verdict]) == {"longest": 4.0}


def test_a_line_that_an_interruption_cut_is_removed(tmp_path):
    results = SuiteResults(tmp_path)
    results.append_answers([{"id": "a", "sample": 0, "answer": "\ud800 é"}])
    results.append_answers([{"id": "b", "sample": 0, "answer": "x"}])
    whole = results.answers.read_bytes()
    results.answers.write_bytes(whole[:-5])
    assert [record["id"] for record in results.read_answers()] == ["a"]
    assert results.answers.read_bytes() == whole[: whole.index(b"\n") + 1]
    results.append_answers([{"id": "b", "sample": 0, "answer": "x"}])
    assert results.answers.read_bytes() == whole
    ordered = results.sort_answers([("b", 0), ("a", 0), ("c", 0)])
    assert [record["id"] for record in ordered] == [record["id"] for record in results.read_answers()] == ["b", "a"]


def test_a_damaged_line_is_named(tmp_path):
    results = SuiteResults(tmp_path)
    results.answers.write_text(json_line({"id": "a", "sample": 0}) + "{]\n" + json_line({"id": "b", "sample": 0}))
    with pytest.raises(SftError, match=r"answers\.jsonl:2: the line is not JSON"):
        results.read_answers()


def test_limits():
    limits = EvalLimits(max_tokens=10, max_minutes=1.0)
    assert limits.reached() == ""
    limits.tokens = 10
    assert limits.reached() == "eval.max_tokens=10"
    assert EvalLimits(max_minutes=1e-9).reached() == "eval.max_minutes=1e-09"


@pytest.mark.parametrize(
    ("row", "scorers", "target"),
    [
        ({"prompt": "a"}, ["none"], None),
        ({"question": "a", "answer": "b"}, ["exact_match"], "{{ answer }}"),
        ({"instruction": "a", "label": "x"}, ["exact_match"], "{{ label }}"),
        ({"prompt": "a", "check": "^b"}, ["regex"], "{{ check }}"),
        ({"prompt": "a", "schema": {}, "answer": "b"}, ["json_schema"], None),
    ],
)
def test_the_columns_of_questions_choose_the_scorer(tmp_path, row, scorers, target):
    file = tmp_path / "my questions.v2.jsonl"
    file.write_text(json.dumps(row) + "\n")
    name, suite = questions_suite(file)
    assert (name, suite.scorers, suite.target) == ("my_questions", scorers, target)


def test_a_file_without_questions_is_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n')
    with pytest.raises(SftError, match="the row has no question; its columns are text"):
        questions_suite(file)


@pytest.mark.parametrize("order", [0, 1])
def test_questions_of_which_only_some_can_be_scored_are_refused(tmp_path, order):
    file = tmp_path / "rows.jsonl"
    lines = ['{"prompt": "a", "answer": "b"}', '{"prompt": "c"}']
    file.write_text("\n".join(lines[order:] + lines[:order]) + "\n")
    with pytest.raises(SftError, match=r"the row has no answer, by which others are scored \(1 of 2 rows have none\)"):
        questions_suite(file)


def test_a_row_whose_question_is_in_another_column_is_refused_with_its_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\n{"question": "c", "answer": "d"}\n')
    with pytest.raises(SftError, match="the row has no prompt, the question of the first row") as refused:
        questions_suite(file)
    assert refused.value.where.endswith("rows.jsonl:2")
    assert refused.value.fix.startswith("rename the column of its question to prompt")
    with pytest.raises(SftError, match="it is a directory, not a file"):
        questions_suite(tmp_path)


@pytest.mark.parametrize(
    ("column", "good", "bad", "problem"),
    [
        ("schema", {"type": "object"}, {"type": "objec"}, "not a JSON Schema"),
        ("check", "^a", "(", "not a regular expression"),
    ],
)
def test_an_item_that_cannot_be_scored_is_refused_with_its_line(tmp_path, column, good, bad, problem):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": "a", column: value}) + "\n" for value in (good, bad)))
    name, suite = questions_suite(file)
    with pytest.raises(SftError, match=problem) as refused:
        chosen_suites(EvalConfig(suites={name: suite}))
    assert refused.value.where.endswith("rows.jsonl:2")


def test_the_table_has_a_row_for_each_metric():
    figure = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8, "clusters": 8}
    tuned = {
        "a": {"metrics": {"acc": figure, "f1": {**figure, "low": None}}},
        "b": {"metrics": {}, "counts": {"answers": 3}},
    }
    columns, rows = metric_table(tuned, {})
    assert columns == ["suite", "metric", "n", "value", "95%"]
    assert rows == [["a", "acc", 8, 0.5, "0.25 to 0.75"], ["a", "f1", 8, 0.5, ""], ["b", "answers", 3, None, ""]]
    columns, rows = metric_table(tuned, {"a": {"metrics": {"acc": {**figure, "value": 0.1}}}})
    assert columns == ["suite", "metric", "n", "base", "base 95%", "tuned", "95%"]
    assert rows[0] == ["a", "acc", 8, 0.1, "0.25 to 0.75", 0.5, "0.25 to 0.75"]
    assert rows[1][3:5] == [None, ""]


def test_warnings_about_answers_name_the_model_if_there_are_two(tmp_path, capsys):
    suite = LoadedSuite("facts", SuiteConfig(), (), "f", 3, 3, "facts.jsonl")

    def outcome(cut):
        scores = {"metrics": {}, "by_tag": {}, "counts": {"items": 3, "answered": 3, "answers": 3, "cut": cut}}
        return SuiteOutcome(suite, SuiteResults(tmp_path), scores)

    print_outcomes([outcome(1)])
    assert "warning: facts: 1 answer cut at the end" in capsys.readouterr().out
    print_outcomes([outcome(1)], [outcome(2)])
    out = capsys.readouterr().out
    assert "warning: facts (tuned): 1 answer cut at the end" in out
    assert "warning: facts (base): 2 answers cut at the end" in out
