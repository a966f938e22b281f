"""Memorisation: trained and held-out answers are continued from their first half."""

import json

import pytest

from sft_cli.cli import execute
from sft_cli.errors import SftError
from sft_cli.suites.memorisation import memorisation_verdict, memorised


def line(split: str, matched: int, expected: int = 4) -> dict:
    return {"tags": {"split": split}, "matched_tokens": matched, "expected_tokens": expected}


def test_scores_have_the_name_of_their_split():
    assert memorisation_verdict(line("trained", 4)).scores == {"trained_verbatim": 1, "trained_continued": 1}
    assert memorisation_verdict(line("heldout", 1)).scores == {"heldout_verbatim": 0, "heldout_continued": 0.25}
    assert memorisation_verdict(line("trained", 0)).reason == ""


def test_memorised_is_the_difference_of_the_splits():
    records = [line("trained", n) for n in (4, 4, 4, 2)] + [line("heldout", n) for n in (4, 0)]
    figure = memorised(records)["memorised"]
    assert figure["value"] == pytest.approx(0.75 - 0.5)
    assert figure["low"] < 0.25 < figure["high"]
    many = memorised([line("trained", 4)] * 500 + [line("heldout", 1)] * 500)["memorised"]
    assert many["low"] > 0.98
    assert memorised([line("trained", 4)]) == {}


def test_a_run_that_memorized_its_rows_continues_them_and_its_base_does_not(run_of, capsys):
    run = run_of("lora")
    execute(["eval", str(run), "eval=memorisation", "--compare", "base"])
    found = {}
    for file in run.glob("eval/memorisation-*/scores.json"):
        label = json.loads((file.parent / "suite.json").read_text())["model"]["label"]
        found[label] = file.parent, json.loads(file.read_text())
    directory, scores = found["tuned"]
    records = [json.loads(line) for line in (directory / "answers.jsonl").read_text().splitlines()]
    assert {(record["tags"]["split"], record["where"]) for record in records} == {
        (split, f"rows.jsonl:{n}") for split in ("trained", "heldout") for n in range(1, 6)
    }
    paris = next(record for record in records if record["where"] == "rows.jsonl:1")
    assert paris["prompt"].endswith("### Response:\nPa")
    assert (paris["expected"], paris["answer"], paris["matched_tokens"]) == ("ris", "ris", paris["expected_tokens"])
    assert scores["metrics"]["trained_verbatim"]["value"] == 1
    assert scores["metrics"]["memorised"]["value"] == 0  # the held-out rows are the same ones
    assert found["base"][1]["metrics"]["trained_verbatim"]["value"] < 0.5
    # Scores, page and traced rows need neither the model nor the training data.
    (run / "data.json").unlink()
    before = (directory / "scores.json").read_text()
    execute(["eval", str(run), "--rescore"])
    assert (directory / "scores.json").read_text() == before
    assert "contamination" not in scores
    with pytest.raises(SftError, match="no longer exist"):
        execute(["eval", str(run), "eval=memorisation"])


def test_the_number_of_rows_and_of_tokens_can_be_set(run_of):
    run = run_of("lora")
    execute(["eval", str(run), "eval=memorisation", "eval.limit=2", "eval.suites.memorisation.max_new_tokens=1"])
    (file,) = run.glob("eval/memorisation-*/answers.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) == 4
    assert {record["expected_tokens"] for record in records} == {1}
