"""Digests of equal rows, and the row that is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.clean.row_keys import preference_order, representatives, row_digest
from sft_cli.config.schema.clean import Scope
from sft_cli.types import Conversation, Message, TokenIds
from sft_cli.utils.words import normalized_words
from tests.clean.rows_helpers import chat, numbered_rows

P, C = Scope.prompt, Scope.conversation


def tokens(ids, weights):
    return Conversation((), "rows.jsonl:1", "mine", tokens=TokenIds(ids, weights))


def message(role, content, **extra):
    return Conversation((Message(role, content, extra=extra), Message("assistant", "ok")), "rows.jsonl:1", "mine")


def calls(name, arguments, call_id="call_1"):
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    turns = (Message("user", "go"), Message("assistant", "", extra={"tool_calls": [call]}), Message("assistant", "ok"))
    return Conversation(turns, "rows.jsonl:1", "mine")


TOOLS = ({"name": "now", "parameters": {}}, {"name": "add", "parameters": {"a": 1}})

SAME_AND_OTHER = [
    # one row, another row, the same prompt, the same conversation
    (chat("Hello  there\n", "Hi"), chat("hello there", "Hi"), True, False),
    (chat("Hello", "Hi"), chat("Hello", "Hello"), True, False),
    (chat("Hello", "Hi"), chat("Hello!", "Hi"), False, False),
    (chat("Run it", "a = 1"), chat("Run it", "A = 1"), True, False),
    (chat("Run it", "if x:\n    y()\nz()"), chat("Run it", "if x:\n    y()\n    z()"), True, False),
    (chat("Run it", "a = 1  \r\nb = 2\r\n"), chat("Run it", "a = 1\nb = 2"), True, True),
    (chat("Run it", "\n\n    a = 1"), chat("Run it", "    a = 1"), True, True),
    (chat("Run it", "    a = 1"), chat("Run it", "a = 1"), True, False),
    (chat("2²", "4"), chat("22", "4"), False, False),  # NFKC would merge them
    (chat("caf\u00e9", "ok"), chat("cafe\u0301", "ok"), True, True),
    (chat("STRASSE", "ok"), chat("straße", "ok"), True, False),
    (chat("a\u00a0b", "ok"), chat("a b", "ok"), True, False),
    (chat("q", "ok", system="Be brief."), chat("q", "ok"), False, False),
    (chat("q", "a", "q", "b"), chat("q", "x", "q", "b"), False, False),
    (chat("q", "a", "q", "b"), chat("q", "a", "q", "x"), True, False),
    (chat("q", "ok", tools=TOOLS), chat("q", "ok"), False, False),
    (chat("q", "ok", tools=TOOLS), chat("q", "ok", tools=TOOLS[::-1]), True, True),
    (chat("q", "ok", tools=TOOLS), chat("q", "ok", tools=({"parameters": {}, "name": "now"}, TOOLS[1])), True, True),
    (message("tool", "5", tool_call_id="call_1"), message("tool", "5", tool_call_id="call_2"), True, True),
    (message("tool", "5", name="add"), message("tool", "5", name="sub"), False, False),
    (calls("add", {"id": 1}), calls("add", {"id": 1}, "call_2"), True, True),  # ids of calls are ignored
    (calls("add", {"id": 1}), calls("add", {"id": 2}), False, False),  # arguments named id are not
    (calls("add", '{"A": 1}'), calls("add", '{"a": 1}'), True, False),
    # no question: all messages are compared
    (Conversation((Message("assistant", "Hi"),), "a:1", "a"), chat("", "Hi"), False, False),
    (Conversation((Message("assistant", "Hi"),), "a:1", "a"), Conversation((Message("assistant", "Ho"),), "a:2", "a"),
     False, False),
    (Conversation((Message("assistant", "hi"),), "a:1", "a"),
     Conversation((Message("assistant", "hi"), Message("assistant", "ho")), "a:2", "a"), False, False),
    (chat("", "Hi"), chat(" ", "Ho"), False, False),
    (chat("", "Hi", system="Be brief."), chat("", "Ho", system="Be brief."), False, False),
    # documents and token ids
    (Conversation((), "a:1", "a", text="Once upon"), Conversation((), "a:2", "b", text="once  upon"), True, False),
    (Conversation((), "a:1", "a", text="Once"), chat("Once", "ok"), False, False),
    (tokens((1, 2), (0.0, 1.0)), tokens((1, 2), (1.0, 1.0)), True, True),
    (tokens((1, 2), (0.0, 1.0)), tokens((12,), (0.0,)), False, False),
    (tokens((1, 2), (0.0, 1.0)), Conversation((), "a:1", "a"), False, False),
    (chat("\ud83d", "ok"), chat("\ud83e", "ok"), False, False),  # half a character, as broken JSON brings it
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "same_prompt", "same_conversation"), SAME_AND_OTHER)
def test_rows_with_equal_digests(one, other, same_prompt, same_conversation):
    assert (row_digest(one, P) == row_digest(other, P)) is same_prompt
    assert (row_digest(one, C) == row_digest(other, C)) is same_conversation
    assert len(row_digest(one, P)) == len(row_digest(one, C)) == 16


def test_rows_of_one_conversation_with_different_trained_turns_differ():
    """One row for each trained turn: the texts are equal, but no row may be dropped."""
    turns = [Message("user", "q"), Message("assistant", "a", weight=0.0), Message("assistant", "b")]
    first = Conversation(tuple(turns), "rows.jsonl:1#1", "mine")
    second = Conversation((turns[0], Message("assistant", "a"), turns[2]), "rows.jsonl:1#2", "mine")
    assert row_digest(first, C) == row_digest(second, C)
    assert row_digest(first, C, weights=True) != row_digest(second, C, weights=True)
    assert row_digest(first, P, weights=True) == row_digest(second, P, weights=True)
    masks = tokens((1, 2), (0.0, 1.0)), tokens((1, 2), (1.0, 1.0))
    assert row_digest(masks[0], C, weights=True) != row_digest(masks[1], C, weights=True)


def test_digest_does_not_depend_on_the_order_of_keys():
    one = Message("user", "q", extra={"name": "Ann", "kind": {"x": 1, "y": 2}})
    other = Message("user", "q", extra={"kind": {"y": 2, "x": 1}, "name": "Ann"})
    assert row_digest(Conversation((one,), "a:1", "a"), C) == row_digest(Conversation((other,), "b:1", "b"), C)


def test_kept_row_is_held_out_then_highest_priority_then_earliest():
    rows = numbered_rows("abcdef", held_out=[4, 5], priorities=[0, 1, 1, -1, 0, 3])
    assert preference_order(rows).tolist() == [5, 4, 1, 2, 0, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-2, 2)), max_size=30))
def test_kept_rows_equal_brute_force(drawn):
    rows = numbered_rows(
        ["x"] * len(drawn), [i for i, (_, held, _) in enumerate(drawn) if held], [rank for _, _, rank in drawn]
    )
    digests = np.array([[value % 2, value // 2] for value, _, _ in drawn], np.uint64).reshape(-1, 2)
    expected = []
    for value, _, _ in drawn:
        same = [index for index, (other, _, _) in enumerate(drawn) if other == value]
        expected.append(min(same, key=lambda index: (not drawn[index][1], -drawn[index][2], index)))
    assert representatives(digests, rows).tolist() == expected


WORDS = [
    ("Hello, World_2!", ["hello", "world", "2"]),
    ("caf\u00e9 CAFE\u0301", ["café", "café"]),
    ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    ("今天ok", ["今", "天", "ok"]),
    ("ภาษา กำ", ["ภ", "า", "ษ", "า", "ก", "ำ"]),
    ("カタ・カナ", ["カ", "タ", "カ", "ナ"]),
    ("Straße", ["strasse"]),
    ("?! 😀 \ud83d", []),
]


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_words(text, expected):
    assert normalized_words(text) == expected


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_fast_path_for_ascii_gives_the_same_words(text):
    """Added punctuation does not change the words, but disables the fast path for ASCII."""
    assert normalized_words(text) == normalized_words(f"{text} \u2019")
