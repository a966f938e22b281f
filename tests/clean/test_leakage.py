"""Training rows that are also held out are dropped; held-out rows never are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.clean import leakage
from sft_cli.clean.base import Finding
from sft_cli.config.schema.clean import LeakageConfig, Scope
from tests.clean.rows_helpers import SmallBatches, collect, dropped_rows, numbered_rows, rows_without

DRAWN = st.lists(
    st.tuples(st.sampled_from("abcA"), st.sampled_from("xy"), st.booleans(), st.integers(0, 1)), max_size=20
)


def drawn_rows(drawn):
    held_out = [index for index, (_, _, held, _) in enumerate(drawn) if held]
    return numbered_rows(
        [(question, answer) for question, answer, _, _ in drawn], held_out, [rank for *_, rank in drawn]
    )


def test_leaking_row_names_its_held_out_row():
    rows = numbered_rows([("What is 2+2?", "4"), ("what is  2+2?", "four"), ("Hi", "Ho"), ("What is 2+2?", "4")], [3])
    result, report = collect(leakage.find_leakage(rows, LeakageConfig()))
    assert result == [
        Finding(0, "also held out", "also held out as rows.jsonl:4", 1.0),
        Finding(1, "also held out", "also held out as rows.jsonl:4", 1.0),
    ]
    assert report == {
        "clusters": [
            {
                "size": 3,
                "kept": "rows.jsonl:4",
                "dropped": ["rows.jsonl:1", "rows.jsonl:2"],
                "similarity": 1.0,
                "text": "What is 2+2?",
            }
        ],
        "num_clusters": 1,
        "num_rows": 2,
    }
    assert dropped_rows(leakage.find_leakage(rows, LeakageConfig(scope=Scope.conversation))) == [0]


@pytest.mark.parametrize("held_out", [[], [0, 1]])
def test_leakage_needs_both_splits(held_out):
    class Unreadable(SmallBatches):
        def map(self, function, argument):
            raise AssertionError("read")

    rows = Unreadable(numbered_rows(["a", "a"]).conversations, frozenset(held_out))
    assert collect(leakage.find_leakage(rows, LeakageConfig())) == ([], None)


@given(DRAWN, st.sampled_from(Scope))
def test_duplicates_equal_brute_force(drawn, scope):
    def key(index):
        question, answer, _, _ = drawn[index]
        return question.lower() if scope is Scope.prompt else (question, answer)

    rows, config = drawn_rows(drawn), LeakageConfig(scope=scope)
    held_out = [index for index, (_, _, held, _) in enumerate(drawn) if held]
    expected = [i for i in range(len(drawn)) if i not in held_out and key(i) in [key(held) for held in held_out]]
    dropped = dropped_rows(leakage.find_leakage(rows, config))
    assert dropped == expected
    assert dropped_rows(leakage.find_leakage(rows_without(rows, dropped), config)) == []
    assert collect(
        leakage.find_leakage(SmallBatches(rows.conversations, rows.held_out_rows, rows.priorities), config)
    ) == collect(leakage.find_leakage(rows, config))
