"""``sft judge`` on two turns: own answers in the conversation, and references of both files."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.compare.judging import find_answers, judged_items
from sft_cli.config.compose import compose
from sft_cli.errors import SftError
from sft_cli.run_dir import RunDir
from sft_cli.suites.items import load_suite
from sft_cli.suites.results import open_results
from sft_cli.suites.scores import score_suite
from tests.compare.test_compare import write_run
from tests.scoring.judge_server import judge_server

NUMBER = 12

pytestmark = pytest.mark.usefixtures("judge_client")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with answers to both turns of some questions; every second question has references."""
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path, "a")
    questions = [
        {"question_id": 100 + n, "category": "math", "turns": [f"One of {n}?", f"Two of {n}?"],
         **({"reference": [f"own 1 of {n}", f"own 2 of {n}"]} if n % 2 else {})}
        for n in range(NUMBER)
    ]  # fmt: skip
    (tmp_path / "mt_bench_question.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    suite = load_suite("mt_bench", compose(["eval=mt_bench"]).eval.suites["mt_bench"], str(tmp_path))
    results = open_results(run / "eval", suite, {"label": "tuned", "weights": "w"}, {})
    records = [
        {"id": entry.item.id, "sample": 0, "cluster": entry.item.cluster, "tags": dict(entry.item.tags), "prompt": "…",
         "answer": f"answer to {entry.item.id}", "reasoning": "", "stopped": True, "num_tokens": 3}
        for entry in suite.items
    ]  # fmt: skip
    results.append_answers(records)
    scored = score_suite(suite, records)
    results.write_scores(scored.verdicts, scored.scores)
    references = [{"question_id": 101, "choices": [{"turns": ["file 1", "file 2"]}]}]
    (tmp_path / "reference.jsonl").write_text("".join(json.dumps(line) + "\n" for line in references))
    return run


def rated(document):
    """Rate an answer without content 1, first turns 8, second ones 6, and 3 by the references of the file."""
    if not document["answer"].startswith("answer to"):
        value = 1
    elif document.get("reference", [""])[0].startswith("file"):
        value = 3
    else:
        value = 8 if len(document["conversation"]) == 1 else 6
    return json.dumps({"explanation": "e", "rating": value})


def judged(url, *words):
    return execute(["judge", "a", "--suite", "mt_bench", "--model", "m", "--url", url, *words])


def test_turns_are_rated_with_own_answers_and_own_references(run, capsys):
    with judge_server(rated) as server:
        code = judged(server.url)
        documents = [one for one in server.documents if one["answer"] == "answer to 101.2"]
    assert code == 0
    assert [turn["content"] for turn in documents[0]["conversation"]] == ["One of 1?", "answer to 101", "Two of 1?"]
    assert documents[0]["reference"] == ["own 2 of 1"]
    record = json.loads(next(run.glob("eval/mt_bench-*/judge-*/judge.json")).read_text())
    values = {name: figure["value"] for name, figure in record["measured"].items()}
    assert values == {"rating": 7, "rating_turn_1": 8, "rating_turn_2": 6}
    assert record["measured"]["rating"]["clusters"] == NUMBER
    assert "rating_turn_2" in capsys.readouterr().out


def test_both_kinds_of_references_are_shown_and_nothing_is_paid_twice(run, capsys):
    with judge_server(rated) as server:
        judged(server.url)
        paid = len(server.bodies)
        judged(server.url, "--references", "reference.jsonl")
        assert len(server.bodies) == paid + 2
    record = json.loads(next(run.glob("eval/mt_bench-*/judge-*/judge.json")).read_text())["measured"]
    assert (record["rating_own_references"]["value"], record["rating_file_references"]["value"]) == (7, 3)
    assert record["rating_file_references"]["n"] == 2
    assert "wrong in 13 of its 30 questions" in capsys.readouterr().out


def test_a_changed_file_of_questions_is_refused(run, tmp_path):
    (tmp_path / "mt_bench_question.jsonl").write_text('{"question_id": 1, "category": "x", "turns": ["a", "b"]}\n')
    record = find_answers(RunDir(run), "mt_bench")
    with pytest.raises(SftError, match="are not those that were answered"):
        judged_items(record, list(record.answers))


@pytest.mark.usefixtures("run")
def test_references_serve_ratings_alone():
    with pytest.raises(SftError, match="references serve ratings"):
        judged("http://127.0.0.1:1/v1", "--references", "reference.jsonl", "--against", "a")


@pytest.mark.parametrize("line", ['{"question_id": 1}', "[]", '{"question_id": 1, "choices": [{"turns": ["a"]}]}'])
def test_a_file_of_references_of_another_form(run, tmp_path, line):
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises(SftError, match=r"bad.jsonl:1: expected an object with question_id and choices of two turns"):
        judged("http://127.0.0.1:1/v1", "--references", "bad.jsonl")
