"""`sft eval RUN --blame` on a run of a tiny model that memorized five rows."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def questions(tmp_path):
    """Return a file of questions; by its own row, the model answers Rome to the second."""
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": "What is the capital of Peru?", "answer": "Lima"},
            {"prompt": "What is the capital of Italy?", "answer": "Milan"}]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_failed_items_name_training_rows_with_their_ledger_lines(run_of, questions, capsys):
    run = run_of("lora")
    execute(["eval", str(run), "--questions", str(questions), "--blame"])
    (file,) = run.glob("eval/mine-*/blame.jsonl")
    (item,) = lines(file)
    assert (item["answer"], item["question"]) == ("Rome", "What is the capital of Italy?")
    first = item["rows"][0]
    assert (first["relation"], first["answer"], first["where"], first["count"]) == (
        "contradicts", "Rome", ["rows.jsonl:5"], 1
    )  # fmt: skip
    assert first["question"].endswith("What is the capital of Italy?\n\n### Response:")
    assert [(line["where"], line["fate"], line["copies"]) for line in first["ledger"]] == [("rows.jsonl:5", "used", 1)]
    assert [row["relation"] for row in item["rows"][1:]] == ["related"] * (len(item["rows"]) - 1)
    out = capsys.readouterr().out
    assert "1 item of 2 failed; training rows contradict 1, 0 have no similar training row" in out
    assert "rows.jsonl:5" in out


def test_stored_answers_are_traced_without_the_model(run_of, questions, monkeypatch):
    run = run_of("lora")
    with pytest.raises(SftError, match="no answers of the suites"):
        execute(["eval", str(run), "--rescore", "--blame"])
    execute(["eval", str(run), "--questions", str(questions)])
    execute(["eval", str(run)])
    report = json.loads((run / "eval" / "heldout.json").read_text())
    report["items"][0] |= {"answer": "Bonn", "correct": False}
    (run / "eval" / "heldout.json").write_text(json.dumps(report))
    monkeypatch.setattr("sft_cli.eval.session.load_evaluated", None)
    execute(["eval", str(run), "--rescore", "--blame"])
    assert len(lines(next(run.glob("eval/mine-*/blame.jsonl")))) == 1
    (item,) = lines(run / "eval" / "heldout.blame.jsonl")
    assert item["reason"] == "expected 'Paris'"
    assert item["rows"][0]["relation"] == "agrees"
    assert item["rows"][0]["answer"] == "Paris"


def test_two_results_of_a_suite_have_different_names_in_the_table_of_overlap(run_of, tmp_path, capsys):
    """An evaluation with eval.limit stays next to that of all items."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"What is {n}?", "answer": "1"}) + "\n" for n in "ab"))
    run = run_of("lora")
    for limit in ((), ("eval.limit=1",)):
        execute(["eval", str(run), "--questions", str(file), *limit])
    out = capsys.readouterr().out
    last = out[out.rindex("overlap   items") :].splitlines()
    names = [line.split()[0] for line in last if line.split()[:1] and "mine" in line.split()[0]]
    assert sorted(names) == sorted(folder.name for folder in (run / "eval").glob("mine-*"))
    assert len(names) == 2


def test_overlap_with_training_rows_and_the_score_without_it(run_of, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": "What is the capital of Peru?", "answer": "Lima"},
            {"prompt": "Which of all the cities is the capital of Norway?", "answer": "Oslo"}]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_of("lora")
    execute(["eval", str(run), "--questions", str(file)])
    (scores,) = run.glob("eval/mine-*/scores.json")
    found = json.loads(scores.read_text())
    assert found["metrics"]["exact_match"]["value"] == 0.5
    entry = found["contamination"]
    assert (entry["items"], entry["overlapping"]) == (2, 1)
    assert entry["clean"]["exact_match"] | {"low": 0, "high": 0} == {
        "value": 0,
        "low": 0,
        "high": 0,
        "n": 1,
        "clusters": 1,
    }
    (line,) = lines(scores.with_name("contamination.jsonl"))[1:]
    assert line["where"] == "rows.jsonl:3"
    assert line["share"] == 1
    assert "1 of 2" in capsys.readouterr().out
    assert 'id="overlap"' in (run / "eval" / "report.html").read_text()
    # Scoring again keeps the overlap without comparing again.
    monkeypatch.setattr("sft_cli.eval_report.overlap.largest_shares", None)
    execute(["eval", str(run), "--rescore"])
    assert json.loads(scores.read_text()) == found
    # Without the training data there is no overlap to measure.
    (run / "data.json").unlink()
    execute(["eval", str(run), "--rescore"])
    assert "contamination" not in json.loads(scores.read_text())
    assert "not measured, since the training data no longer exist" in capsys.readouterr().out
