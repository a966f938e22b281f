"""OpenAssistant's trees. The tables give each branch as ``text``; ``(text)`` marks an answer without loss."""

import random

import pytest

from sft_cli.config.schema.data import SourceConfig, TreeConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError, RowExcluded
from sft_cli.data.sources.source_rows import BadRow
from sft_cli.types import Row


def node(text, *replies, rank=None, **more):
    """Return a message: questions have capital letters, answers small ones."""
    role = "prompter" if text[:1].isupper() else "assistant"
    return {"message_id": f"id-{text}", "text": text, "role": role, "rank": rank, "replies": list(replies), **more}


def tree(root, **more):
    return {"message_tree_id": root["message_id"], "prompt": root, **more}


def flat(root, parent=None):
    """Return the messages of a tree as single rows, each after its parent."""
    own = {key: value for key, value in root.items() if key != "replies"}
    rows = [{**own, "parent_id": parent}]
    for reply in root["replies"]:
        rows += flat(reply, root["message_id"])
    return rows


def shown(conversation):
    texts = [m.content if m.weight == 1 or m.role == "user" else f"({m.content})" for m in conversation.messages]
    return " ".join(texts)


def branches(values, **config):
    source = SourceConfig(tree=TreeConfig(**config))
    return make_converter(source, "mine", "\n\n", values).convert(Row(values, "trees.jsonl:4", "mine"))


def gathered(rows, **config):
    source = SourceConfig(tree=TreeConfig(**config), format="tree_messages")
    result = make_converter(source, "mine", "\n\n", ())
    assert result.needs_all_rows
    return list(result.convert_all(Row(values, f"flat.jsonl:{i}", "mine") for i, values in enumerate(rows, start=1)))


# Q ── c(2)
#   ├─ a(0) ── F ── g(1)
#   │       │    └─ f(0)
#   │       └─ U (never answered)
#   ├─ d(no rank)
#   └─ b(1) ── H ── h
TREE = node(
    "Q",
    node("c", rank=2),
    node("a", node("F", node("g", rank=1), node("f", rank=0)), node("U"), rank=0),
    node("d"),
    node("b", node("H", node("h")), rank=1),
)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("best", ["Q a F f"]),
        ("ranked(1)", ["Q a F f"]),
        ("ranked(2)", ["Q a F f", "Q (a) F g", "Q b H h"]),
        ("ranked(3)", ["Q a F f", "Q (a) F g", "Q b H h", "Q c"]),
        ("all", ["Q a F f", "Q (a) F g", "Q b H h", "Q c", "Q d"]),
        ("ranked(9)", ["Q a F f", "Q (a) F g", "Q b H h", "Q c", "Q d"]),
    ],
)
def test_paths(paths, expected):
    """Both nested forms and the flat form give the same result, in any order of rows."""
    result = branches(tree(TREE), paths=paths)
    assert [shown(branch) for branch in result] == expected
    assert [shown(branch) for branch in branches(TREE, paths=paths)] == expected
    rows = flat(TREE)
    assert [shown(branch) for branch in gathered(rows, paths=paths)] == expected
    # Replies without a rank keep the order of the file, so shuffling never swaps two of them.
    random.Random(1).shuffle(rows)
    assert [shown(branch) for branch in gathered(rows, paths=paths)] == expected


def test_answer_shared_by_branches_has_loss_once():
    result = branches(tree(TREE), paths="all")
    answers = [m.content for branch in result for m in branch.messages if m.role == "assistant" and m.weight > 0]
    assert sorted(answers) == ["a", "b", "c", "d", "f", "g", "h"]


def test_where_and_group():
    best, both = branches(tree(TREE)), branches(tree(TREE), paths="ranked(2)")
    assert [branch.where for branch in best] == ["trees.jsonl:4"]
    assert [branch.where for branch in both] == ["trees.jsonl:4#1", "trees.jsonl:4#2", "trees.jsonl:4#3"]
    assert {branch.group for branch in (*best, *both)} == {"id-Q"}
    single = [branch.where for branch in branches(tree(node("Q", node("a"))), paths="all")]
    assert single == ["trees.jsonl:4#1"]


def test_unanswered_reply_is_not_followed():
    """The best-ranked user reply has no answer; the path follows its sibling."""
    result = branches(tree(node("Q", node("a", node("U"), node("V", node("W")), node("F", node("f"))))))
    assert [shown(branch) for branch in result] == ["Q a F f"]


KINDS = node(
    "Q",
    node("a", rank=0, lang="en", review_result=False),
    node("b", node("F", node("f", lang="de"), lang="en"), rank=1, lang="en", deleted=True),
    node("c", rank=2, lang="en", labels={"spam": {"value": 0.75, "count": 4}}),
    node("d", rank=3, lang="en", labels={"name": ["quality", "spam"], "value": [1.0, 0.5], "count": [3, 3]}),
    node("e", rank=4, lang="de", review_result=None, labels={"spam": {"value": 0.25}}),
    node("g", rank=5, lang="en", review_result=True, deleted=False, labels={"quality": {"value": 1.0}}),
    lang="en",
)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ["Q e", "Q g"]),
        ({"languages": ["en"]}, ["Q g"]),
        ({"languages": ["en", "de"]}, ["Q e", "Q g"]),
        ({"reviewed": False}, ["Q a", "Q b F f", "Q c", "Q d", "Q e", "Q g"]),
        ({"reviewed": False, "languages": ["en"]}, ["Q a", "Q b", "Q c", "Q d", "Q g"]),
    ],
)
def test_review_and_language(config, expected):
    result = branches(tree(KINDS), paths="all", **config)
    assert [shown(branch) for branch in result] == expected
    assert [shown(branch) for branch in gathered(flat(KINDS), paths="all", **config)] == expected
    assert {branch.tags["language"] for branch in result} == {"en"}


@pytest.mark.parametrize(
    ("values", "config"),
    [
        pytest.param(tree(node("Q", node("a", lang="en"), lang="en")), {"languages": ["de"]}, id="language"),
        pytest.param(tree(node("Q", node("a"), deleted=True)), {}, id="deleted-root"),
        pytest.param(tree(node("Q", node("a", review_result=False))), {}, id="no-answer-passed"),
        pytest.param(tree(node("Q", node("a")), tree_state="aborted_low_grade"), {}, id="abandoned"),
        pytest.param({**node("Q", node("a")), "tree_state": "halted_by_moderator"}, {}, id="abandoned-root"),
        pytest.param(tree(node("Q")), {}, id="never-answered"),
    ],
)
def test_tree_without_remaining_messages_is_excluded(values, config):
    with pytest.raises(RowExcluded) as caught:
        branches(values, **config)
    assert str(caught.value) == (
        "trees.jsonl:4: the source's tree.languages and tree.reviewed leave no answer of the tree\n"
        "  fix: set data.mix.mine.tree.languages=[] or data.mix.mine.tree.reviewed=false to keep more"
    )
    assert caught.value.reason == "tree without a kept answer"


def test_abandoned_trees_can_be_kept():
    assert branches(tree(node("Q", node("a")), tree_state="aborted_low_grade"), reviewed=False)
    state = {**node("Q", node("a")), "tree_state": "aborted_low_grade"}
    (left_out,) = gathered(flat(state))
    assert isinstance(left_out.error, RowExcluded)


@pytest.mark.parametrize(
    ("prompt", "config", "expected"),
    [
        ("Q", {}, "field 'prompt' is 'Q' (text); expected the first message of a tree, with its replies"),
        (node("Q", "a"), {}, "field 'prompt.replies[0]' is 'a' (text); expected a message with text and role"),
        ({**node("Q"), "replies": "a"}, {}, "field 'prompt.replies' is 'a' (text); expected a list of messages"),
        (node("Q", node("")), {}, None),
        (
            node("Q", node("a", {**node("F"), "text": " "})), {},
            "field 'prompt.replies[0].replies[0].text' (user) is ' '; expected non-empty text",
        ),
        (node("Q", node("a", rank="0")), {}, "field 'prompt.replies[0].rank' is '0' (text); expected a number or null"),
        (
            node("Q", node("a", deleted="no")), {},
            "field 'prompt.replies[0].deleted' is 'no' (text); expected true, false or null",
        ),
        (
            node("Q", node("a", labels=[1])), {},
            "field 'prompt.replies[0].labels' is [1] (a list); expected OpenAssistant's labels",
        ),
        (
            node("Q", node("a", labels={"spam": {"value": "x"}})), {},
            "field 'prompt.replies[0].labels (spam)' is 'x' (text); expected a number from 0 to 1",
        ),
        (
            node("Q", node("a")), {"languages": ["en"]},
            "field 'prompt.lang' is None (null); expected a language such as en (tree.languages is set)",
        ),
        (
            node("Q", {"text": "a"}), {}, "field 'prompt.replies[0]' has neither 'role' nor 'from'; it has text",
        ),
    ],
)  # fmt: skip
def test_invalid_trees_are_refused(prompt, config, expected):
    values = {"message_tree_id": "t", "prompt": prompt}
    if expected is None:
        assert [shown(branch) for branch in branches(values, **config)] == ["Q "]
        return
    with pytest.raises(RowError) as caught:
        branches(values, **config)
    assert caught.value.problem == expected


def test_very_deep_tree():
    deep = node("a0")
    for depth in range(1, 3000):
        deep = node(f"{'Q' if depth % 2 else 'a'}{depth}", deep)
    (result,) = branches(tree(deep))
    assert len(result.messages) == 3000


def test_flat_trees_and_unranked_replies_keep_the_order_of_the_file():
    rows = [*flat(node("Q", node("a"), node("b"), node("c"))), *flat(node("R", node("d")))]
    rows += flat(node("E", node("e"), node("f")), parent="id-a")
    result = [shown(branch) for branch in gathered(rows, paths="all")]
    assert result == ["Q a E e", "Q (a) E f", "Q b", "Q c", "R d"]


def test_flat_rows_without_a_tree_are_reported():
    """Each row is in a conversation or is reported; the other trees are complete."""
    rows = [
        *flat(node("Q", node("a"))),  # 1, 2
        {"message_id": "id-x", "parent_id": "missing", "text": "x", "role": "assistant"},  # 3
        {"message_id": "id-Q", "parent_id": None, "text": "Q", "role": "prompter"},  # 4: as 1
        {"message_id": "p", "parent_id": "q", "text": "x", "role": "assistant"},  # 5 and 6: a circle
        {"message_id": "q", "parent_id": "p", "text": "x", "role": "assistant"},
        {"parent_id": None, "text": "x", "role": "assistant"},  # 7
        *flat(node("R", node("b", rank="0"))),  # 8, 9
    ]
    result = gathered(rows)
    good = [(item.where, shown(item)) for item in result if not isinstance(item, BadRow)]
    bad = [(item.where, item.error.reason, item.error.problem) for item in result if isinstance(item, BadRow)]
    assert good == [("flat.jsonl:1", "Q a")]
    assert bad == [
        ("flat.jsonl:4", "message_id used twice", "field 'message_id' is 'id-Q', as in an earlier row"),
        (
            "flat.jsonl:7",
            "missing field message_id",
            "there is no field 'message_id'; the row has parent_id, text, role",
        ),
        ("flat.jsonl:9", "rank of the wrong type", "field 'rank' is '0' (text); expected a number or null"),
        ("flat.jsonl:3", "message without its tree", "field 'parent_id' is 'missing', which no first message leads to"),
        ("flat.jsonl:5", "message without its tree", "field 'parent_id' is 'q', which no first message leads to"),
        ("flat.jsonl:6", "message without its tree", "field 'parent_id' is 'p', which no first message leads to"),
    ]


def test_unreadable_rows_are_passed_through():
    bad = BadRow("flat.jsonl:1", "mine", RowError(where="flat.jsonl:1", reason="r", problem="p", fix="f"))
    result = make_converter(SourceConfig(format="tree_messages"), "mine", "\n\n", ())
    assert list(result.convert_all([bad])) == [bad]


def test_tags_and_scores_of_flat_rows_come_from_the_first_message():
    rows = flat(node("Q", node("a"), topic="t", judge=4))
    source = SourceConfig(
        format="tree_messages", tags={"task": "topic", "language": "text"}, scores={"quality": "judge"}
    )
    result = make_converter(source, "mine", "\n\n", ())
    (conversation,) = result.convert_all(Row(values, "a:1", "mine") for values in rows)
    assert conversation.tags == {"task": "t", "language": "Q"}
    assert conversation.scores == {"quality": 4.0}
    missing = make_converter(SourceConfig(format="tree_messages", tags={"task": "topics"}), "mine", "\n\n", ())
    (bad,) = missing.convert_all(Row(values, "a:1", "mine") for values in rows)
    assert bad.error.fix == "did you mean data.mix.mine.tags.task=topic?"


@pytest.mark.material
@pytest.mark.parametrize("file", ["en_100_tree.jsonl", "en_100_message.jsonl"])
def test_real_nested_and_flat_files_agree(material_dir, file):
    """Nested rows and flat rows of the same messages give the same conversations."""
    import json

    rows = [json.loads(line) for line in (material_dir / "data/oasst" / file).read_text().splitlines()]
    for paths, expected in (("best", 100), ("ranked(2)", None), ("all", None)):
        nested = [branch for values in rows for branch in branches(values, paths=paths)]
        messages = [message for values in rows for message in flat(values.get("prompt", values))]
        single = gathered(messages, paths=paths)
        assert [branch.messages for branch in nested] == [branch.messages for branch in single]
        assert expected is None or len(nested) == expected
        trained = [id(m) for b in nested for m in b.messages if m.role == "assistant" and m.weight]
        assert len(trained) == len(set(trained)) > 0
