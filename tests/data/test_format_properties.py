"""Any value in any field gives a conversation or a ``RowError``, never a traceback."""

import copy
import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.config.schema.data import SourceConfig, TreeConfig
from sft_cli.data.formats.row_converter import FORMATS, RowConverter, make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources.source_rows import BadRow
from sft_cli.types import Conversation, Row

KEYS = [
    "role", "from", "content", "value", "weight", "tool_calls", "function_call", "function", "name", "arguments",
    "type", "text", "reasoning", "human", "assistant", "system", "message_id", "parent_id", "replies", "rank", "lang",
    "labels", "spam", "deleted", "parameters",
]  # fmt: skip
WORDS = [
    "user", "assistant", "system", "tool", "function_call", "prompter", "text", "reasoning", "tool_call", "function",
    "{{name}}", '{"name": "f", "arguments": "{}"}', "[]", "[1, 2]", '"\\"{}\\""', "\ud800", "", " ", "a", "b", "1e5",
]  # fmt: skip
plain = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.integers() | st.floats() | st.sampled_from(WORDS)
    | st.text(st.characters(), max_size=4)
)  # fmt: skip
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "function_call", "system"])},
    optional={
        "content": st.sampled_from(WORDS)
        | st.lists(st.fixed_dictionaries({"type": plain, "value": plain}), max_size=2),
        "weight": st.sampled_from([0, 1, 0.5]) | plain,
        "tool_calls": st.lists(st.fixed_dictionaries({"name": plain, "arguments": plain}), max_size=2) | plain,
    },
)
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        | st.lists(message, min_size=1, max_size=3)
    ),
    max_leaves=12,
)
node = st.recursive(
    st.fixed_dictionaries({"text": plain, "role": plain}),
    lambda inner: st.fixed_dictionaries(
        {
            "text": st.sampled_from(WORDS),
            "role": st.sampled_from(["prompter", "assistant"]),
            "replies": st.lists(inner, max_size=3) | plain,
        },
        optional={"rank": plain, "lang": plain, "deleted": plain, "labels": anything, "message_id": plain},
    ),
    max_leaves=8,
)
sources = st.builds(
    SourceConfig,
    variables=st.sampled_from([{}, {"name": "Ada"}]),
    tags=st.sampled_from([{}, {"task": "tag"}]),
    scores=st.sampled_from([{}, {"quality": "score"}]),
)
trees = st.builds(
    TreeConfig,
    paths=st.sampled_from(["best", "all", "ranked(2)"]),
    languages=st.sampled_from([[], ["a"]]),
    reviewed=st.booleans(),
)


def check(found: Conversation) -> None:
    """Check the properties of a conversation that other modules rely on."""
    kinds = [bool(found.messages), found.text is not None, found.tokens is not None]
    assert sum(kinds) == 1
    assert not found.messages or any(message.role == "assistant" for message in found.messages)
    for message in found.messages:
        assert message.role in ("system", "user", "assistant", "tool")
        message.content.encode("utf-8")
        json.dumps(message.extra, ensure_ascii=False).encode("utf-8")
        assert 0 <= message.weight < math.inf
        for call in message.extra.get("tool_calls", []):
            assert isinstance(call, Mapping)
    if found.text is not None:
        assert found.text.encode("utf-8").strip()
    if found.tokens is not None:
        assert len(found.tokens.input_ids) == len(found.tokens.weights) > 1
        assert found.tokens.weights[0] == 0 < sum(found.tokens.weights)
    assert all(isinstance(value, str) for value in found.tags.values())
    assert all(math.isfinite(value) for value in found.scores.values())
    json.dumps([found.tags, found.scores, found.group, found.tools], ensure_ascii=False).encode("utf-8")


def attempt(found: RowConverter, row: Row) -> tuple[Conversation, ...]:
    """Return the conversations of a row; none if it is refused with a valid error."""
    try:
        result = found.convert(row)
    except RowError as error:
        refused = error
    else:
        assert result
        return result
    assert refused.where.startswith(row.where)
    assert refused.reason
    f"{refused} {refused.reason}".encode()
    return ()


@given(st.sampled_from(sorted(FORMATS)), sources, trees, st.data())
def test_any_row_converts_or_is_refused(format, source, tree, data):
    shape = FORMATS[format]
    if format == "tokens":
        source.variables = {}
    source.format = format
    source.tree = tree if shape.tree else TreeConfig()
    values = anything | node if shape.tree else anything
    columns = data.draw(
        st.fixed_dictionaries(
            dict.fromkeys(shape.required, values), optional=dict.fromkeys((*shape.optional, "tag", "score"), values)
        )
    )
    result = make_converter(source, "mine", "\n", columns)
    if result.needs_all_rows:
        return
    for conversation in attempt(result, Row(columns, "a:1", "mine")):
        check(conversation)


CALL = {"name": "f", "arguments": {"x": "{{name}}"}}
SEEDS = [
    {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "Q"}], "weight": 0},
            {"role": "assistant", "content": [{"type": "reasoning", "value": "R"}, {"type": "text", "value": "A"},
                                              {"type": "tool_call", "value": json.dumps(CALL)}]},
            {"role": "tool", "content": "T", "tool_call_id": "1"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}], "reasoning_content": "R"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": json.dumps("{}")}},
        ],
        "tools": [{"name": "f", "parameters": {"type": "object"}}],
    },
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": json.dumps([CALL, CALL])},
                       {"from": "observation", "value": "T"}, {"from": "gpt", "value": "A"}], "system": "S"},
    {"conversation": [{"human": "Q", "assistant": "A", "system": "S"}, {"human": "Q", "assistant": "A"}]},
    {"instruction": "Q", "input": "I", "output": "A", "history": [["q", "a"]], "system": "S"},
    {"instruction": "Q", "context": "I", "response": "A"},
    {"input_ids": [0, 1, 2, 3, 0], "labels": [-100, -100, 2, 3, -100], "attention_mask": [0, 1, 1, 1, 0]},
    {"input_ids": [0, 1], "loss_mask": [0, 1], "assistant_masks": [False, True]},
    {"text": "T {{name}}"},
    {
        "message_tree_id": "t", "tree_state": "x",
        "prompt": {"text": "Q", "role": "prompter", "lang": "a", "replies": [
            {"text": "A", "role": "assistant", "rank": 1, "lang": "a", "labels": {"spam": {"value": 0.1}}, "replies": [
                {"text": "Q", "role": "prompter", "lang": "a", "replies": [{"text": "B", "role": "gpt", "lang": "a"}]}
            ]},
            {"text": "B", "role": "assistant", "rank": 0, "lang": "b", "deleted": False, "review_result": True},
        ]},
    },
]  # fmt: skip


def places(value, path=()):
    """Return the path of keys to every place in a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


@st.composite
def nearly_right(draw, seed):
    """Draw a row of ``seed`` with up to two values replaced, removed or doubled."""
    row = copy.deepcopy(seed)
    for _ in range(draw(st.integers(0, 2))):
        *path, last = draw(st.sampled_from(list(places(row))))
        holder = row
        for key in path:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "replace", "word", "remove", "double"]))
        if change in ("replace", "word"):
            holder[last] = draw(anything if change == "replace" else st.sampled_from(WORDS))
        elif change == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif len(holder) > 1:
            del holder[last]
    return row


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: "-".join(seed))
def test_nearly_valid_rows_convert_or_are_refused(seed):
    """A good part of these rows converts."""
    converted = []

    @settings(max_examples=100)  # fewer examples may include no row that converts
    @given(nearly_right(seed), sources, trees)
    def every_row(values, source, tree):
        if "input_ids" in seed:
            source.variables = {}
        source.tree = tree if "prompt" in seed else TreeConfig()
        row = Row({**values, "tag": "k", "score": 1}, "a:1", "mine")
        for conversation in attempt(make_converter(source, "mine", "\n", seed), row):
            check(conversation)
            converted.append(conversation)

    every_row()
    assert len(converted) > 5


@given(node, trees)
def test_trees_of_random_shape(root, tree):
    row = Row({"message_tree_id": "t", "prompt": root}, "a:1", "mine")
    try:
        result = make_converter(SourceConfig(tree=tree), "mine", "\n", row.values).convert(row)
    except RowError:
        return
    places = [conversation.where for conversation in result]
    assert places == (["a:1"] if tree.paths == "best" else [f"a:1#{i + 1}" for i in range(len(result))])
    for conversation in result:
        check(conversation)
        assert conversation.group == "t"
        assert conversation.messages[-1].role == "assistant"
        assert conversation.messages[-1].weight == 1, "the last answer of a branch is on no other"


ids = st.sampled_from(["a", "b", "c", "d", "e"])
flat = st.fixed_dictionaries(
    {
        "message_id": ids,
        "parent_id": st.none() | ids,
        "text": st.sampled_from(["a", "b", "{{name}}", ""]),
        "role": st.sampled_from(["prompter", "assistant"]),
    },
    optional={"rank": st.integers(0, 3), "lang": st.sampled_from(["a", "b"]), "deleted": st.booleans()},
)
spoilt = st.fixed_dictionaries({"message_id": plain, "parent_id": plain, "text": plain, "role": plain, "rank": plain})


@given(st.lists(flat | flat | flat | spoilt, max_size=9), trees)
def test_flat_trees_of_random_shape(rows, tree):
    """Every row is in a tree that gave conversations, or belongs to a reported problem."""
    source = SourceConfig(format="tree_messages", tree=tree)
    result = make_converter(source, "mine", "\n", ())
    made = list(result.convert_all(Row(values, f"a:{i}", "mine") for i, values in enumerate(rows)))
    for item in made:
        if not isinstance(item, BadRow):
            check(item)
    assert bool(made) == bool(rows)


@given(st.dictionaries(st.sampled_from(["a", "b"]), anything), st.sampled_from(
    ["{{ a }}", "{{ [a, b] }}", "{{ a | tojson }}", "{{ a.x ~ b[0] }}", "{% for x in a %}{{ x.y }}{% endfor %}",
     "{{ a | map(attribute='role') }}", "{{ [{'role': 'assistant', 'content': a}] }}"]
), st.sampled_from(["messages", "text", "tools"]))  # fmt: skip
def test_formats_written_in_yaml(values, text, field):
    texts = {field: text} if field != "tools" else {"messages": "{{ a }}", "tools": text}
    result = make_converter(SourceConfig(format=texts), "mine", "\n", values)
    try:
        (made,) = result.convert(Row(values, "a:1", "mine"))
    except RowError:
        return
    check(made)
