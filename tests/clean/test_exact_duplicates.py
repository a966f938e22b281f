"""One of several equal rows is kept: a held-out row first, then by priority, then the earliest."""

from hypothesis import given
from hypothesis import strategies as st
from test_leakage import DRAWN, drawn_rows

from sft_cli.clean import exact_duplicates
from sft_cli.clean.base import Finding
from sft_cli.config.schema.clean import Action, ExactDuplicatesConfig, Scope
from sft_cli.types import Conversation, Message
from tests.clean.helpers import InMemoryRows
from tests.clean.rows_helpers import SmallBatches, chat, collect, dropped_rows, numbered_rows, rows_without

CONVERSATION = ExactDuplicatesConfig()
PROMPT = ExactDuplicatesConfig(scope=Scope.prompt)


def test_kept_row_is_held_out_then_by_priority_then_earliest():
    same = ["q"] * 4
    assert dropped_rows(exact_duplicates.find_exact_duplicates(numbered_rows(same), CONVERSATION)) == [1, 2, 3]
    assert dropped_rows(
        exact_duplicates.find_exact_duplicates(numbered_rows(same, priorities=[0, 0, 5, 0]), CONVERSATION)
    ) == [0, 1, 3]
    assert dropped_rows(
        exact_duplicates.find_exact_duplicates(numbered_rows(same, [3], [0, 0, 5, 0]), CONVERSATION)
    ) == [0, 1, 2]
    assert dropped_rows(exact_duplicates.find_exact_duplicates(numbered_rows(same, [2, 3]), CONVERSATION)) == [0, 1, 3]


def test_findings_and_report():
    rows = numbered_rows([("q", "1"), ("x" * 400, "2"), ("q", "1"), ("X" * 400, "2"), ("Q", "1"), ("q", "1")])
    result, report = collect(exact_duplicates.find_exact_duplicates(rows, PROMPT))
    assert result == [
        Finding(index, "exact duplicate", f"the same as rows.jsonl:{kept}", 1.0)
        for index, kept in [(2, 1), (3, 2), (4, 1), (5, 1)]
    ]
    names = ["rows.jsonl:3", "rows.jsonl:5", "rows.jsonl:6"]
    assert report == {
        "clusters": [
            {"size": 4, "kept": "rows.jsonl:1", "dropped": names, "similarity": 1.0, "text": "q"},
            {"size": 2, "kept": "rows.jsonl:2", "dropped": ["rows.jsonl:4"], "similarity": 1.0, "text": "x" * 300},
        ],
        "num_clusters": 2,
        "num_rows": 4,
    }
    assert dropped_rows(exact_duplicates.find_exact_duplicates(rows, CONVERSATION)) == [2, 5]


def test_reported_rows_are_kept_with_their_cluster():
    result, report = collect(
        exact_duplicates.find_exact_duplicates(numbered_rows("abab", [2]), ExactDuplicatesConfig(action=Action.report))
    )
    assert result == [
        Finding(0, None, "the same as rows.jsonl:3", 1.0, cluster=2),
        Finding(1, cluster=1),
        Finding(2, cluster=2),
        Finding(3, None, "the same as rows.jsonl:2", 1.0, cluster=1),
    ]
    assert report is not None
    assert report["num_rows"] == 2


def test_rows_training_different_turns_of_a_conversation_are_kept():
    requested, output = Message("user", "q"), Message("assistant", "a")
    silent = Message("assistant", "a", weight=0.0)
    rows = [
        Conversation((requested, turn, requested, output), "rows.jsonl:1", "mine") for turn in (output, silent, output)
    ]
    assert dropped_rows(exact_duplicates.find_exact_duplicates(InMemoryRows(rows), CONVERSATION)) == [2]


def test_report_has_a_limit():
    rows = numbered_rows([str(number // 8) for number in range(60 * 8)])
    _, report = collect(exact_duplicates.find_exact_duplicates(rows, CONVERSATION))
    assert report is not None
    assert (report["num_clusters"], report["num_rows"]) == (60, 60 * 7)
    assert len(report["clusters"]) == 50
    assert [len(cluster["dropped"]) for cluster in report["clusters"]] == [5] * 50
    assert report["clusters"][0]["kept"] == "rows.jsonl:1"


def test_no_rows():
    empty = {"clusters": [], "num_clusters": 0, "num_rows": 0}
    assert collect(exact_duplicates.find_exact_duplicates(InMemoryRows([]), CONVERSATION)) == ([], empty)


@given(DRAWN, st.sampled_from(Scope))
def test_duplicates_equal_brute_force(drawn, scope):
    rows, config = drawn_rows(drawn), ExactDuplicatesConfig(scope=scope)
    best: dict[object, int] = {}
    for index in sorted(range(len(drawn)), key=lambda index: (not drawn[index][2], -drawn[index][3], index)):
        question, answer, _, _ = drawn[index]
        best.setdefault(question.lower() if scope is Scope.prompt else (question, answer), index)
    dropped = dropped_rows(exact_duplicates.find_exact_duplicates(rows, config))
    assert dropped == [index for index in range(len(drawn)) if index not in best.values()]
    assert dropped_rows(exact_duplicates.find_exact_duplicates(rows_without(rows, dropped), config)) == []
    pieces = SmallBatches(rows.conversations, rows.held_out_rows, rows.priorities)
    assert collect(exact_duplicates.find_exact_duplicates(pieces, config)) == collect(
        exact_duplicates.find_exact_duplicates(rows, config)
    )


@given(st.permutations([("a", "x"), ("a", "x"), ("A", "x"), ("b", "x"), ("b", "y"), ("b", "x")]))
def test_kept_texts_do_not_depend_on_the_order(turns):
    rows = InMemoryRows([chat(*turn) for turn in turns])
    dropped = dropped_rows(exact_duplicates.find_exact_duplicates(rows, CONVERSATION))
    kept = {turn for index, turn in enumerate(turns) if index not in dropped}
    assert kept == {("a", "x"), ("A", "x"), ("b", "x"), ("b", "y")}
