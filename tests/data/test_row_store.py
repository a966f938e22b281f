"""Rows on disk: any selection of rows is read as written, across parts and batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.data import codec, row_store
from sft_cli.data.row_errors import RowError, RowExcluded
from sft_cli.data.row_store import RowStore
from sft_cli.types import Conversation, Message, TokenIds

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.text(),
    weight=st.sampled_from([0.0, 0.5, 1.0]),
    extra=st.dictionaries(st.text(), json_values, max_size=2),
)
conversations = st.builds(
    Conversation,
    messages=st.lists(messages, max_size=3).map(tuple),
    where=st.text(),
    source=st.just("mine"),
    tools=st.none() | st.lists(st.dictionaries(st.text(), json_values, max_size=2), min_size=1, max_size=2).map(tuple),
    text=st.none() | st.text(min_size=1),
    tokens=st.none() | st.just(TokenIds((1, 2, 3), (0.0, 0.5, 1.0))),
    tags=st.dictionaries(st.text(), st.text(), max_size=2),
    scores=st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=2),
    group=st.none() | st.text(),
    not_read=st.lists(st.text(), max_size=2).map(tuple),
)


@given(conversations)
@settings(max_examples=200)
def test_conversation_round_trips(conversation):
    assert (
        codec.decode_conversation(codec.encode_conversation(conversation), conversation.where, "mine") == conversation
    )


def row(number):
    """Return a conversation; every seventh row is a problem."""
    where = f"rows.jsonl:{number}"
    if number % 7 == 3:
        return where, RowError(where=where, reason="bad", problem=f"row {number}", fix="repair it")
    group = "tree" if number % 2 else None
    return where, Conversation(
        (Message("user", f"q{number % 5}"), Message("assistant", str(number))), where, "mine", group=group
    )


@pytest.fixture
def store(tmp_path):
    """Return a store of 2,510 rows in two parts; the first part has three batches."""
    for number, (start, stop) in enumerate([(0, 2500), (2500, 2510)]):
        row_store.write_rows(tmp_path / f"part-{number:05}.arrow", map(row, range(start, stop)))
    return RowStore(tmp_path, "mine")


def test_rows_are_read_by_number(store):
    numbers = [0, 3, 999, 1000, 1001, 2499, 2500, 2509]
    result = list(store.read(np.array(numbers)))
    assert [stored.where for stored in result] == [f"rows.jsonl:{number}" for number in numbers]
    for number, stored in zip(numbers, result, strict=True):
        expected = row(number)[1]
        if isinstance(expected, RowError):
            assert stored.conversation is None
            assert (str(stored.error), stored.error.reason) == (str(expected), "bad")
        else:
            assert (stored.conversation, stored.error) == (expected, None)


def test_columns_are_aligned_with_rows(store):
    good, prompts, groups = store.is_valid(), store.digests("prompt"), store.digests("group")
    assert len(store) == len(good) == len(prompts) == len(groups) == 2510
    assert good.tolist() == [number % 7 != 3 for number in range(2510)]
    first = {number % 5: prompts[number] for number in range(4, 10) if good[number]}
    assert all(prompts[number] == first[number % 5] for number in range(2510) if good[number])
    assert [group == b"" for group in groups] == [not number % 2 or number % 7 == 3 for number in range(2510)]
    assert [where for where, _ in store.locations()] == [f"rows.jsonl:{number}" for number in range(2510)]


def test_part_is_written_completely_or_not_at_all(tmp_path):
    def rows():
        yield row(0)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        row_store.write_rows(tmp_path / "part-00000.arrow", rows())
    assert not list(tmp_path.iterdir())


def test_is_excluded_and_payload_sizes(tmp_path):
    error = {"where": "rows.jsonl:1", "reason": "bad", "problem": "it is", "fix": "repair it"}
    configured = [RowError(**error), row(0)[1], RowExcluded(**error)]
    row_store.write_rows(tmp_path / "part-00000.arrow", (("rows.jsonl:1", one) for one in configured))
    store = RowStore(tmp_path, "mine")
    assert (store.is_valid().tolist(), store.is_excluded().tolist()) == ([False, True, False], [False, False, True])
    assert store.payload_sizes().tolist() == [0, len(codec.encode_conversation(configured[1])), 0]
    assert [type(problem) for _, problem in store.locations()] == [RowError, type(None), RowExcluded]


def test_trees_of_two_sources_are_two_groups(tmp_path):
    """Trees with equal ids in two sources are separate groups."""
    result = [
        Conversation((Message("user", "q"), Message("assistant", "a")), "x:1", source, group="tree 1")
        for source in ("mine", "other", "mine")
    ]
    row_store.write_rows(tmp_path / "part-00000.arrow", (("x:1", one) for one in result))
    groups = RowStore(tmp_path, "mine").digests("group").tolist()
    assert groups[0] == groups[2] != groups[1]
