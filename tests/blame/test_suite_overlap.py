"""Which items stand in training rows, by n-grams of words."""

import pytest

from sft_cli.blame import overlap
from sft_cli.blame.overlap import compared, largest_shares
from sft_cli.blame.training_turns import TrainingTurn


def words(first: int, number: int) -> str:
    return " ".join(f"w{n}" for n in range(first, first + number))


def turn(line: int, question: str, answer: str = "yes") -> TrainingTurn:
    return TrainingTurn(f"rows.jsonl:{line}", "rows", f"### Instruction:\n{question}\n\n### Response:", answer)


@pytest.mark.parametrize(
    ("question", "row", "share"),
    [
        pytest.param(words(0, 40), words(0, 40), 1.0, id="whole"),
        pytest.param(words(0, 40), words(0, 26), 0.5, id="14-of-28-long-ngrams"),
        pytest.param(words(0, 40), words(0, 25), None, id="13-of-28-long-ngrams"),
        pytest.param(words(0, 25), words(0, 16), 0.5, id="9-of-18-short-ngrams"),
        pytest.param(words(0, 25), words(0, 15), None, id="8-of-18-short-ngrams"),
        pytest.param(words(0, 6), words(0, 6), 1.0, id="all-words-of-six"),
        pytest.param(words(0, 6), words(0, 5), None, id="five-of-six"),
        pytest.param(words(0, 4), words(0, 4), None, id="too-short"),
        pytest.param("W0, w1! w2: W3? w4.", words(0, 5), 1.0, id="case-and-signs"),
    ],
)
def test_share_of_the_ngrams_of_a_question(question, row, share):
    found = largest_shares({"item": question}, [turn(1, words(900, 30)), turn(2, row)])
    assert found == ({} if share is None else {"item": (share, "rows.jsonl:2")})


def test_the_largest_share_of_a_single_row_counts(monkeypatch):
    monkeypatch.setattr(overlap, "BATCH", 2)
    rows = [turn(1, words(0, 28)), turn(2, words(20, 20)), turn(3, "other", words(0, 39)), turn(4, words(0, 30))]
    found = largest_shares({"a": words(0, 40), "b": words(300, 40), "c": "one two"}, rows)
    assert found == {"a": (27 / 28, "rows.jsonl:3")}
    assert compared({"a": words(0, 40), "b": words(300, 40), "c": "one two"}) == 2
