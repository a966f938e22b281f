"""A row is dropped only if it is similar to a kept row, never through a chain of other rows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.clean import jaccard, minhash, near_duplicates
from sft_cli.clean.base import Finding
from sft_cli.clean.rouge import f_measure, lcs_length
from sft_cli.clean.row_keys import comparison_text
from sft_cli.config.schema.clean import Action, Method, NearDuplicatesConfig, Scope
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Message, TokenIds
from tests.clean.helpers import InMemoryRows
from tests.clean.rows_helpers import SmallBatches, collect, dropped_rows, numbered_rows, rows_without

MINHASH = NearDuplicatesConfig()
ROUGE = NearDuplicatesConfig(method=Method.rouge_l, threshold=0.7)
COUNTING = " ".join(f"word{number}" for number in range(42))
"""Forty shingles of three words."""


def similarity(config, one, other):
    """Return the similarity of two texts by its definition."""
    if config.method is Method.rouge_l:
        first, second = one.lower().split(), other.lower().split()
        return f_measure(longest(first, second), len(first), len(second))
    first, second = (set(minhash.shingles(conversation(text), config)) for text in (one, other))
    return len(first & second) / len(first | second) if first and second else 0.0


def longest(one, other):
    """Return the length of the longest common subsequence from the full table."""
    row = [0] * (len(other) + 1)
    for word in one:
        above, row = row, [0]
        for place, another in enumerate(other):
            row.append(above[place] + 1 if word == another else max(row[-1], above[place + 1]))
    return row[-1]


def conversation(text):
    return Conversation((Message("user", text), Message("assistant", "ok")), "rows.jsonl:1", "mine")


def by_brute_force(texts, config, order=None):
    """Return the dropped rows, each with the kept row it is similar to."""
    kept, dropped = [], {}
    for index in order if order is not None else range(len(texts)):
        similar = [other for other in kept if similarity(config, texts[index], texts[other]) >= config.threshold]
        if similar:
            dropped[index] = similar[0]
        else:
            kept.append(index)
    return dict(sorted(dropped.items()))


def test_findings_and_report():
    nearly = COUNTING.replace("word20 ", "other ")  # 3 of 40 shingles differ: 37 / 43
    texts = [nearly, "Something else altogether", f"{COUNTING} more", f"{COUNTING}!", "something ELSE, altogether..."]
    result, report = collect(near_duplicates.find_near_duplicates(numbered_rows(texts), MINHASH))
    assert result == [
        Finding(2, "near duplicate", "similarity 0.84 to rows.jsonl:1", 0.8409),
        Finding(3, "near duplicate", "similarity 0.86 to rows.jsonl:1", 0.8605),
        Finding(4, "near duplicate", "similarity 1.00 to rows.jsonl:2", 1.0),
    ]
    assert report == {
        "clusters": [
            {
                "size": 3,
                "kept": "rows.jsonl:1",
                "dropped": ["rows.jsonl:3", "rows.jsonl:4"],
                "similarity": 0.8409,
                "text": nearly[:300],
            },
            {
                "size": 2,
                "kept": "rows.jsonl:2",
                "dropped": ["rows.jsonl:5"],
                "similarity": 1.0,
                "text": "Something else altogether",
            },
        ],
        "num_clusters": 2,
        "num_rows": 3,
    }


def test_reported_rows_are_kept_with_their_cluster():
    rows = numbered_rows([COUNTING, "b c d e", f"{COUNTING} x"])
    result, _ = collect(near_duplicates.find_near_duplicates(rows, NearDuplicatesConfig(action=Action.report)))
    assert result == [Finding(0, cluster=0), Finding(2, None, "similarity 0.98 to rows.jsonl:1", 0.9756, cluster=0)]


def test_no_row_is_dropped_through_a_chain():
    """Each text is similar only to the next: the middle one is dropped for the first, the last one is kept."""
    words = COUNTING.split()
    chain = [" ".join(words[start : start + 38]) for start in (0, 2, 4)]
    config = NearDuplicatesConfig(threshold=0.88)
    assert [round(similarity(config, chain[0], chain[place]), 2) for place in (1, 2)] == [0.89, 0.8]
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(chain), config)) == [1]
    assert dropped_rows(
        near_duplicates.find_near_duplicates(numbered_rows([chain[1], chain[0], chain[2]]), config)
    ) == [1, 2]


@pytest.mark.parametrize("config", [MINHASH, ROUGE])
def test_held_out_row_is_kept_then_by_priority_then_earliest(config):
    same = [COUNTING, f"{COUNTING} x", f"{COUNTING} y"]
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(same), config)) == [1, 2]
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(same, priorities=[0, 1, 0]), config)) == [
        0,
        2,
    ]
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(same, [2], [0, 1, 0]), config)) == [0, 1]


DIFFERENT = [
    ("What is 3 + 4?", "What is 3 - 4?"),  # signs count
    ("Is a < b?", "Is a > b?"),
    ("Hi", "Ho"),
    ("😀", "🎉"),  # no words: never similar
    ("", ""),
    ("+", "+"),
    ("红色的花", "绿色的花"),
]
ALIKE = [
    ("A well-known fact", "a WELL known fact."),  # the hyphen inside a word does not
    ("Hi!", "hi"),
    ("What is 3+4?", "what is  3 + 4"),
    ("What’s 3+4?", "What's 3+4?"),
    ("caf\u00e9 au lait", "cafe\u0301 au lait"),
]


@pytest.mark.parametrize("pair", DIFFERENT)
def test_texts_that_are_not_near_duplicates(pair):
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(pair), MINHASH)) == []


@pytest.mark.parametrize("pair", ALIKE)
def test_texts_that_are_near_duplicates(pair):
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(pair), MINHASH)) == [1]


def test_rows_of_token_ids_are_never_similar():
    rows = InMemoryRows(
        [Conversation((), f"rows.jsonl:{n}", "mine", tokens=TokenIds((1, 2), (0.0, 1.0))) for n in (1, 2)]
    )
    assert (
        dropped_rows(near_duplicates.find_near_duplicates(rows, MINHASH))
        == dropped_rows(near_duplicates.find_near_duplicates(rows, ROUGE))
        == []
    )


def test_scope_conversation_compares_answers_too():
    turns = [("Tell me a joke please", COUNTING), ("Tell me a joke please", COUNTING[::-1])]
    assert dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(turns), MINHASH)) == [1]
    assert (
        dropped_rows(
            near_duplicates.find_near_duplicates(numbered_rows(turns), NearDuplicatesConfig(scope=Scope.conversation))
        )
        == []
    )
    assert comparison_text(numbered_rows(turns)[0], Scope.conversation) == f"Tell me a joke please\n{COUNTING}"


TEXT = st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join)
TEXTS = st.lists(TEXT, max_size=14)
METHODS = st.sampled_from(Method)
THRESHOLDS = st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0])


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(TEXTS, METHODS, THRESHOLDS, st.integers(1, 4), st.data())
def test_near_duplicates_equal_brute_force_and_are_idempotent(texts, method, threshold, shingle, data):
    """The bands are so narrow that no pair is missed; batches of two give the same result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "RECALL", 1 - 1e-9)
        config = NearDuplicatesConfig(method=method, threshold=threshold, shingle=shingle, permutations=1024)
        held_out = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), max_size=3))) if texts else []
        rows = numbered_rows(texts, held_out)
        order = [*held_out, *(index for index in range(len(texts)) if index not in held_out)]
        expected = by_brute_force(texts, config, order)
        result, report = collect(near_duplicates.find_near_duplicates(rows, config))
        assert {one.row: one.detail.split()[-1] for one in result} == {
            index: f"rows.jsonl:{kept + 1}" for index, kept in expected.items()
        }
        for one in result:
            assert one.score == pytest.approx(similarity(config, texts[one.row], texts[expected[one.row]]), abs=1e-4)
        assert dropped_rows(near_duplicates.find_near_duplicates(rows_without(rows, list(expected)), config)) == []
        assert collect(
            near_duplicates.find_near_duplicates(SmallBatches(rows.conversations, rows.held_out_rows), config)
        ) == (result, report)


@settings(deadline=None)
@given(TEXTS, METHODS, st.randoms(use_true_random=False))
def test_near_duplicates_properties(texts, method, random):
    """No two kept rows are similar, every dropped row is similar to a kept one; without chains the count is fixed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "RECALL", 1 - 1e-9)
        config = NearDuplicatesConfig(method=method, threshold=0.6, shingle=2, permutations=1024)
        shuffled = random.sample(texts, len(texts))
        sizes = []
        for order in (texts, shuffled):
            dropped = dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(order), config))
            kept = [text for index, text in enumerate(order) if index not in dropped]
            near = [[similarity(config, text, other) >= 0.6 for other in kept] for text in order]
            for index in dropped:
                assert any(near[index])
            assert sum(sum(row) for index, row in enumerate(near) if index not in dropped) == sum(bool(t) for t in kept)
            sizes.append(len(kept))
        alike = [[similarity(config, one, other) >= 0.6 for other in texts] for one in texts]
        if all(alike[i] == alike[j] for i in range(len(texts)) for j in range(len(texts)) if alike[i][j]):
            assert sizes[0] == sizes[1]


def test_memory_is_bounded_by_reading_again(monkeypatch):
    texts = [f"{COUNTING} {number}" for number in range(6)] + [
        f"{COUNTING} a b c d e f {number}" for number in range(6)
    ]
    expected = collect(near_duplicates.find_near_duplicates(numbered_rows(texts), NearDuplicatesConfig(threshold=0.95)))
    assert len(expected[0]) > 3
    monkeypatch.setattr(jaccard, "MAX_CACHED", 50)
    assert (
        collect(near_duplicates.find_near_duplicates(numbered_rows(texts), NearDuplicatesConfig(threshold=0.95)))
        == expected
    )


@pytest.mark.parametrize(("few", "marks"), [(0, 64), (1000, 2), (0, 1)])
def test_shortcuts_do_not_change_the_result(monkeypatch, few, marks):
    """The result is independent of how candidates are collected and of values computed in advance."""
    texts = [" ".join(f"{(row * step) % 23}" for step in range(3, 15 + row % 3)) for row in range(300)]
    config = NearDuplicatesConfig(threshold=0.4, shingle=1)
    result, report = collect(near_duplicates.find_near_duplicates(numbered_rows(texts), config))
    assert len({one.detail for one in result if one.score != 1}) > 3
    monkeypatch.setattr(jaccard, "FEW_MATES", few)
    monkeypatch.setattr(jaccard, "MAX_HASHES", marks)
    assert collect(near_duplicates.find_near_duplicates(numbered_rows(texts), config)) == (result, report)


@pytest.mark.parametrize(
    ("threshold", "permutations", "expected"),
    [(0.8, 128, (21, 6)), (0.5, 128, (42, 3)), (0.9, 128, (12, 10)), (1.0, 128, (1, 128)), (0.04, 128, (128, 1))],
)
def test_band_shape(threshold, permutations, expected):
    number, width = minhash.band_shape(threshold, permutations)
    assert (number, width) == expected
    assert number * width <= permutations
    assert 1 - (1 - threshold**width) ** number >= minhash.RECALL


def test_band_shape_reaches_the_recall():
    """A thousand pairs at the threshold (shared shingles: 4 of 5); about one in 500 may be missed."""
    pairs = []
    for number in range(1000):
        words = [f"{number}x{place}" for place in range(38)]
        changed = [*words[:34], *(f"{word}y" for word in words[34:])]
        pairs += [" ".join(words), " ".join(changed)]
    assert similarity(MINHASH, pairs[0], pairs[1]) == 0.8
    dropped = dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(pairs), MINHASH))
    assert set(dropped) <= set(range(1, 2000, 2))
    assert len(dropped) >= 990


@given(st.lists(st.integers(0, 3), max_size=70), st.lists(st.integers(0, 3), max_size=70))
def test_longest_common_subsequence(one, other):
    assert lcs_length(one, other) == lcs_length(other, one) == longest(one, other)


@given(TEXT, TEXT)
def test_rouge_l_equals_rouge_score(one, other):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    first, second = one.split(), other.split()
    result = f_measure(lcs_length(first, second), len(first), len(second))
    assert result == pytest.approx(scorer.score(one, other)["rougeL"].fmeasure)


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("sft_cli.utils.optional_deps.find_spec", lambda module: None)
    with pytest.raises(SftError) as caught:
        dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(["a", "b"]), MINHASH))
    assert str(caught.value) == (
        "clean.steps: the step near_duplicates needs rensa, which is not installed\n  fix: pip install 'sft-cli[clean]'"
    )
    with pytest.raises(SftError, match="needs rapidfuzz, which is not installed"):
        dropped_rows(near_duplicates.find_near_duplicates(numbered_rows(["a", "a"]), ROUGE))
