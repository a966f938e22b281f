"""What makes two rows the same, and which of them is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.clean.base import words
from sft_cli.clean.row_keys import best_first, digest, winners
from sft_cli.config.schema.clean import Scope
from sft_cli.types import Conversation, Message, TokenIds
from tests.clean.rows_helpers import numbered, talk

P, C = Scope.prompt, Scope.conversation


def tokens(ids, weights):
    return Conversation((), "rows.jsonl:1", "mine", tokens=TokenIds(ids, weights))


def said(role, content, **extra):
    return Conversation((Message(role, content, extra=extra), Message("assistant", "ok")), "rows.jsonl:1", "mine")


def calls(name, arguments, call_id="call_1"):
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    turns = (Message("user", "go"), Message("assistant", "", extra={"tool_calls": [call]}), Message("assistant", "ok"))
    return Conversation(turns, "rows.jsonl:1", "mine")


TOOLS = ({"name": "now", "parameters": {}}, {"name": "add", "parameters": {"a": 1}})

SAME_AND_OTHER = [
    # one row, another row, the same prompt, the same conversation
    (talk("Hello  there\n", "Hi"), talk("hello there", "Hi"), True, False),
    (talk("Hello", "Hi"), talk("Hello", "Hello"), True, False),
    (talk("Hello", "Hi"), talk("Hello!", "Hi"), False, False),
    (talk("Run it", "a = 1"), talk("Run it", "A = 1"), True, False),
    (talk("Run it", "if x:\n    y()\nz()"), talk("Run it", "if x:\n    y()\n    z()"), True, False),
    (talk("Run it", "a = 1  \r\nb = 2\r\n"), talk("Run it", "a = 1\nb = 2"), True, True),
    (talk("Run it", "\n\n    a = 1"), talk("Run it", "    a = 1"), True, True),
    (talk("Run it", "    a = 1"), talk("Run it", "a = 1"), True, False),
    (talk("2²", "4"), talk("22", "4"), False, False),  # NFKC would merge them
    (talk("caf\u00e9", "ok"), talk("cafe\u0301", "ok"), True, True),
    (talk("STRASSE", "ok"), talk("straße", "ok"), True, False),
    (talk("a\u00a0b", "ok"), talk("a b", "ok"), True, False),
    (talk("q", "ok", system="Be brief."), talk("q", "ok"), False, False),
    (talk("q", "a", "q", "b"), talk("q", "x", "q", "b"), False, False),
    (talk("q", "a", "q", "b"), talk("q", "a", "q", "x"), True, False),
    (talk("q", "ok", tools=TOOLS), talk("q", "ok"), False, False),
    (talk("q", "ok", tools=TOOLS), talk("q", "ok", tools=TOOLS[::-1]), True, True),
    (talk("q", "ok", tools=TOOLS), talk("q", "ok", tools=({"parameters": {}, "name": "now"}, TOOLS[1])), True, True),
    (said("tool", "5", tool_call_id="call_1"), said("tool", "5", tool_call_id="call_2"), True, True),
    (said("tool", "5", name="add"), said("tool", "5", name="sub"), False, False),
    (calls("add", {"id": 1}), calls("add", {"id": 1}, "call_2"), True, True),  # ids of calls are made up
    (calls("add", {"id": 1}), calls("add", {"id": 2}), False, False),  # an argument of that name is not
    (calls("add", '{"A": 1}'), calls("add", '{"a": 1}'), True, False),
    # nothing is asked: compared whole
    (Conversation((Message("assistant", "Hi"),), "a:1", "a"), talk("", "Hi"), False, False),
    (Conversation((Message("assistant", "Hi"),), "a:1", "a"), Conversation((Message("assistant", "Ho"),), "a:2", "a"),
     False, False),
    (Conversation((Message("assistant", "hi"),), "a:1", "a"),
     Conversation((Message("assistant", "hi"), Message("assistant", "ho")), "a:2", "a"), False, False),
    (talk("", "Hi"), talk(" ", "Ho"), False, False),
    (talk("", "Hi", system="Be brief."), talk("", "Ho", system="Be brief."), False, False),
    # documents and token ids
    (Conversation((), "a:1", "a", text="Once upon"), Conversation((), "a:2", "b", text="once  upon"), True, False),
    (Conversation((), "a:1", "a", text="Once"), talk("Once", "ok"), False, False),
    (tokens((1, 2), (0.0, 1.0)), tokens((1, 2), (1.0, 1.0)), True, True),
    (tokens((1, 2), (0.0, 1.0)), tokens((12,), (0.0,)), False, False),
    (tokens((1, 2), (0.0, 1.0)), Conversation((), "a:1", "a"), False, False),
    (talk("\ud83d", "ok"), talk("\ud83e", "ok"), False, False),  # half a character, as broken JSON brings it
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "same_prompt", "same_conversation"), SAME_AND_OTHER)
def test_what_is_the_same(one, other, same_prompt, same_conversation):
    assert (digest(one, P) == digest(other, P)) is same_prompt
    assert (digest(one, C) == digest(other, C)) is same_conversation
    assert len(digest(one, P)) == len(digest(one, C)) == 16


def test_rows_cut_from_one_conversation_train_different_turns():
    """One row for each trained turn: the texts are the same, and none of the rows may go."""
    turns = [Message("user", "q"), Message("assistant", "a", weight=0.0), Message("assistant", "b")]
    first = Conversation(tuple(turns), "rows.jsonl:1#1", "mine")
    second = Conversation((turns[0], Message("assistant", "a"), turns[2]), "rows.jsonl:1#2", "mine")
    assert digest(first, C) == digest(second, C)
    assert digest(first, C, weights=True) != digest(second, C, weights=True)
    assert digest(first, P, weights=True) == digest(second, P, weights=True)
    masks = tokens((1, 2), (0.0, 1.0)), tokens((1, 2), (1.0, 1.0))
    assert digest(masks[0], C, weights=True) != digest(masks[1], C, weights=True)


def test_a_digest_does_not_depend_on_the_order_of_keys():
    one = Message("user", "q", extra={"name": "Ann", "kind": {"x": 1, "y": 2}})
    other = Message("user", "q", extra={"kind": {"y": 2, "x": 1}, "name": "Ann"})
    assert digest(Conversation((one,), "a:1", "a"), C) == digest(Conversation((other,), "b:1", "b"), C)


def test_held_out_rows_come_first_then_priority_then_the_earliest():
    rows = numbered("abcdef", held_out=[4, 5], priorities=[0, 1, 1, -1, 0, 3])
    assert best_first(rows).tolist() == [5, 4, 1, 2, 0, 3]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-2, 2)), max_size=30))
def test_winners_by_brute_force(drawn):
    rows = numbered(
        ["x"] * len(drawn), [i for i, (_, held, _) in enumerate(drawn) if held], [rank for _, _, rank in drawn]
    )
    digests = np.array([[value % 2, value // 2] for value, _, _ in drawn], np.uint64).reshape(-1, 2)
    expected = []
    for value, _, _ in drawn:
        same = [index for index, (other, _, _) in enumerate(drawn) if other == value]
        expected.append(min(same, key=lambda index: (not drawn[index][1], -drawn[index][2], index)))
    assert winners(digests, rows).tolist() == expected


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
    assert words(text) == expected


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_plain_text_gives_the_same_words_the_long_way(text):
    """A sign that is no letter makes no difference; it only leads past the short cut for ASCII."""
    assert words(text) == words(f"{text} \u2019")
