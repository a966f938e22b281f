"""The training rows nearest to a failed item, on the rows of the quickstart with 20 planted wrong ones."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import sft_cli
from sft_cli.blame.failures import Failure
from sft_cli.blame.nearest import TrainingIndex
from sft_cli.blame.training_turns import TrainingTurn, trained_spans
from sft_cli.blame.word_index import TfidfIndex
from sft_cli.scoring.normalize import is_exact_match

ROWS = Path(sft_cli.__file__).parent / "quickstart" / "train.jsonl"
WORDINGS = (
    "Which city is the capital of {}?", "What is the capital of {}?", "Tell me the capital of {}.",
    "Give the capital of {}.", "{} has which capital?", "What city is the capital city of {}?",
    "State the capital city of {}.", "Which city serves as the capital of {}?", "Write down the capital of {}.",
    "Please name the capital of {}.", "Do you know the capital of {}?", "The capital of {} is which city?",
    "What do we call the capital of {}?", "I need the capital of {}.", "Find the capital of {}.",
    "Which is the capital city of {}?", "Say the capital of {}.", "Answer with the capital of {}.",
    "In one word, the capital of {}?", "Capital of {}, please.",
)  # fmt: skip


def turn(number: int, question: str, answer: str, input: str = "") -> TrainingTurn:
    """Return a turn as the Alpaca template writes it."""
    extra = f"\n\n### Input:\n{input}" if input else ""
    text = f"Below is an instruction.\n\n### Instruction:\n{question}{extra}\n\n### Response:"
    return TrainingTurn(f"rows.jsonl:{number}", "rows", text, answer)


@cache
def quickstart() -> tuple[TrainingTurn, ...]:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    return tuple(turn(n, row["instruction"], row["output"], row["input"]) for n, row in enumerate(rows, 1))


def failure(question: str, answer: str, expected: str) -> Failure:
    return Failure(question, question, answer, "wrong", lambda text: is_exact_match(text, expected))


@pytest.mark.parametrize(("country", "wrong", "right"), [("France", "Lyon", "Paris"), ("Peru", "Cusco", "Lima")])
def test_planted_wrong_rows_are_among_the_first_five(country, wrong, right):
    planted = [turn(10_000 + n, text.format(country), wrong) for n, text in enumerate(WORDINGS)]
    index = TrainingIndex([*quickstart(), *planted])
    questions = [text.format(country).replace("?", " today?").replace("Please", "Kindly") for text in WORDINGS]
    found = [index.nearest(failure(question, wrong, right)) for question in questions]
    where = {turn.where for turn in planted}
    named = {place for rows in found for row in rows for place in row.where} & where
    assert len(named) >= 18
    shares = [np.mean([row.turn.where in where for row in rows]) for rows in found]
    assert all(1 <= len(rows) <= 5 for rows in found)
    assert np.mean(shares) >= 0.9


def test_contradicting_rows_come_first_and_equal_rows_are_one_entry():
    rows = [
        turn(1, "What is the capital of Chad?", "N'Djamena"),
        turn(2, "What is the capital of Chad?", "Bonn"),
        turn(3, "what is the capital of CHAD", " bonn."),
        turn(4, "What is the currency of Chad?", "franc"),
        turn(5, "What is the plural of mouse?", "mice"),
    ]
    found = TrainingIndex([*rows, *quickstart()]).nearest(failure("What is the capital of Chad?", "Rome", "N'Djamena"))
    assert [(row.relation, row.where) for row in found[:2]] == [
        ("contradicts", ("rows.jsonl:2", "rows.jsonl:3")),
        ("agrees", ("rows.jsonl:1",)),
    ]
    assert {row.relation for row in found[2:]} == {"related"}
    assert all(row.turn.answer != "mice" for row in found)


def test_an_item_without_a_similar_row_names_none():
    assert TrainingIndex(quickstart()).nearest(failure("Quel temps fait-il aujourd'hui?", "", "beau")) == []


def test_similarity_is_the_cosine_of_tf_idf_vectors():
    texts = ["a b b", "a c", "a", ""]
    index = TfidfIndex(texts)
    idf = {"a": np.log(5 / 4), "b": np.log(5 / 2), "c": np.log(5 / 2), "new": np.log(5)}
    first = {"a": idf["a"], "b": (1 + np.log(2)) * idf["b"]}
    query = {"a": idf["a"], "b": idf["b"], "new": idf["new"]}
    expected = sum(first[w] * query[w] for w in first) / np.sqrt(
        sum(v**2 for v in first.values()) * sum(v**2 for v in query.values())
    )
    found = index.similarities("b new a")
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[3] == 0
    assert index.similarities("c a")[1] == pytest.approx(1, abs=1e-6)
    assert not TfidfIndex([]).similarities("a").size
    assert index.similarities("").tolist() == [0, 0, 0, 0]


def test_spans_of_trained_tokens():
    assert trained_spans(np.array([0, 1, 1, 0, 0.5, 0, 0], np.float32)) == [(1, 3), (4, 5)]
    assert trained_spans(np.array([1, 1], np.float32)) == [(0, 2)]
    assert trained_spans(np.array([0], np.float32)) == []
