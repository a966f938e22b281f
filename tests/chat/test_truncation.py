"""``data.overflow=truncate``: the prefix of a proven row, and a report of the truncated tokens."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_drop_oldest_turns import conversations

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.truncation import trained_ranges
from sft_cli.config.schema.data import DataConfig, Overflow, TrainOn
from sft_cli.types import Conversation, TokenIds
from tests.chat.helpers import FORGETFUL, table, talk, text, trained
from tests.lanes import examples

LAW = settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEMPLATES = pytest.mark.parametrize("template", ["chatml", FORGETFUL], ids=["joined", "unrolled"])
TWO = ("U:a", "A:bc", "U:d", "A:efg")


def tokens(ids, weights):
    return Conversation((), "rows.jsonl:7", "mine", tokens=TokenIds(tuple(ids), tuple(weights)))


def cut(make_builder, conversation, max_length, template="chatml", **rules):
    return make_builder(template, max_length=max_length, overflow=Overflow.truncate, **rules).build([conversation])[0]


def test_ids_and_mask_before_and_after(make_builder, tokenizer):
    whole = make_builder().build([talk(*TWO)])[0].examples[0]
    assert table(tokenizer, whole)[-6:] == [
        ("t", 0.0),
        ("\n", 0.0),
        ("e", 1.0),
        ("f", 1.0),
        ("g", 1.0),
        ("<|im_end|>", 1.0),
    ]
    outcome = cut(make_builder, talk(*TWO), len(whole.input_ids) - 2)
    assert table(tokenizer, outcome.examples[0]) == table(tokenizer, whole)[:-2]
    assert trained(tokenizer, outcome) == ["bc<|im_end|>|ef"]
    assert (outcome.truncated_tokens, outcome.remarks) == (2, {"cut_answer"})
    assert outcome.stop_tokens == {"<|im_end|>"}  # of the first answer


@pytest.mark.parametrize(
    ("shorter", "expected_texts", "remarks", "stops"),
    [
        pytest.param(0, ["bc<|im_end|>|efg<|im_end|>"], set(), {"<|im_end|>"}, id="fits"),
        pytest.param(1, ["bc<|im_end|>|efg"], {"cut_answer"}, {"<|im_end|>"}, id="only-the-stop"),
        pytest.param(3, ["bc<|im_end|>|e"], {"cut_answer"}, {"<|im_end|>"}, id="one-token-left"),
        pytest.param(4, ["bc<|im_end|>"], set(), {"<|im_end|>"}, id="between-answers"),
        pytest.param(9, ["bc<|im_end|>"], set(), {"<|im_end|>"}, id="in-a-header"),
    ],
)
def test_an_answer_that_loses_its_end_is_remarked_and_its_stop_is_not_counted(
    make_builder, tokenizer, shorter, expected_texts, remarks, stops
):
    length = len(make_builder().build([talk(*TWO)])[0].examples[0].input_ids)
    outcome = cut(make_builder, talk(*TWO), length - shorter)
    assert (trained(tokenizer, outcome), outcome.remarks, outcome.stop_tokens) == (expected_texts, remarks, stops)
    assert outcome.truncated_tokens == shorter


def test_the_only_answer_cut_trains_no_stop_token(make_builder, tokenizer):
    length = len(make_builder().build([talk("U:a", "A:bc")])[0].examples[0].input_ids)
    outcome = cut(make_builder, talk("U:a", "A:bc"), length - 1)
    assert (trained(tokenizer, outcome), outcome.stop_tokens) == (["bc"], frozenset())


def test_a_row_without_a_remaining_trained_token_is_too_long(make_builder):
    whole = make_builder().build([talk("U:" + "a" * 50, "A:bc")])[0].examples[0]
    first = next(i for i, weight in enumerate(whole.weights, 1) if weight)
    assert cut(make_builder, talk("U:" + "a" * 50, "A:bc"), first).problem is None
    outcome = cut(make_builder, talk("U:" + "a" * 50, "A:bc"), first - 1)
    assert (outcome.too_long, outcome.no_loss_left, outcome.min_length) == (True, True, first)
    assert str(outcome.problem) == (
        f"rows.jsonl:7: {len(whole.input_ids)} tokens, longer than trainer.max_length={first - 1}, and the first token"
        f" that carries loss is number {first}: truncation would leave none\n"
        "  fix: trainer.max_length=72, or data.overflow=drop"
    )
    strict = make_builder(max_length=first - 1, overflow=Overflow.error).build([talk("U:" + "a" * 50, "A:bc")])[0]
    assert "truncate" not in strict.problem.fix


@TEMPLATES
@LAW
@given(conversation=conversations(), max_length=st.integers(8, 400), last=st.booleans())
def test_a_truncated_row_is_a_prefix_of_the_verified_row(make_builder, template, conversation, max_length, last):
    """Ids and weights are equal, and every truncated token is counted, also for an unrolled row."""
    rules = {"train_on": TrainOn.last if last else TrainOn.assistant}
    whole = make_builder(template, max_length=100_000, **rules).build([conversation])[0]
    outcome = cut(make_builder, conversation, max_length, template, **rules)
    expected = [(one.input_ids[:max_length], one.weights[:max_length]) for one in whole.examples]
    expected = [(ids, weights) for ids, weights in expected if any(weights)]
    assert [(one.input_ids, one.weights) for one in outcome.examples] == expected
    lengths = [len(one.input_ids) for one in whole.examples]
    assert outcome.too_long == (not expected)
    assert outcome.max_tokens == max(lengths)
    if expected:
        assert outcome.truncated_tokens == sum(lengths) - sum(len(ids) for ids, _ in expected)
        assert (outcome.truncated_tokens > 0) == (max(lengths) > max_length)
    firsts = [next(i for i, weight in enumerate(one.weights, 1) if weight) for one in whole.examples]
    assert outcome.min_length == (min(firsts) if max(lengths) > max_length else max(lengths))
    ends = [one.weights for one in outcome.examples if one.weights[-1]]
    stops = [one.input_ids[-1] for one in whole.examples][:1]
    cut_off = any(one.weights[-1] and one.input_ids[-1] not in stops for one in outcome.examples)
    assert ("cut_answer" in outcome.remarks) == cut_off
    assert bool(outcome.stop_tokens) == any(
        id in stops and weight
        for one in outcome.examples
        for id, weight in zip(one.input_ids, one.weights, strict=True)
    )
    assert len(ends) <= len(outcome.examples)


def test_a_cut_inside_a_no_loss_part_is_remarked_only_if_part_of_the_answer_is_trained(make_builder):
    whole = make_builder(no_loss_patterns=["x+"]).build([talk("U:a", "A:bxxxxc")])[0].examples[0]
    first = whole.weights.index(1.0)
    assert cut(make_builder, talk("U:a", "A:bxxxxc"), first + 3, no_loss_patterns=["x+"]).remarks == {"cut_answer"}
    muted_first = talk("U:q", "A:z", "U:a", "A:xxxxbc")
    whole = make_builder(no_loss_patterns=["x+"]).build([muted_first])[0].examples[0]
    assert cut(make_builder, muted_first, len(whole.input_ids) - 5, no_loss_patterns=["x+"]).remarks == frozenset()


def test_a_conversation_trained_whole_and_a_document(make_builder, tokenizer):
    outcome = cut(make_builder, talk(*TWO), 30, train_on=TrainOn.all)
    assert (len(outcome.examples[0].input_ids), outcome.remarks, outcome.stop_tokens) == (
        30,
        {"cut_answer"},
        {"<|im_end|>"},
    )
    document = Conversation((), "rows.jsonl:7", "mine", text="abcdefghij")
    outcome = cut(make_builder, document, 8)
    assert text(tokenizer, outcome.examples[0]) == "abcdefgh"
    assert (outcome.stop_tokens, outcome.remarks, outcome.truncated_tokens) == (frozenset(), {"cut_answer"}, 3)


def test_a_document_of_a_replay_source_is_still_cut_into_pieces(make_builder, tokenizer):
    rules = DataConfig(overflow=Overflow.truncate)
    replay = ExampleBuilder(tokenizer, make_builder().span_finder.template, rules, 8, split_documents=True)
    outcome = replay.build([Conversation((), "rows.jsonl:7", "mine", text="abcdefghijklmnopq")])[0]
    assert (outcome.num_pieces, outcome.truncated_tokens, outcome.remarks) == (3, 0, frozenset())


@pytest.mark.parametrize(
    ("weights", "max_length", "kept", "remarks", "stops"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 8, [0, 0, 1, 1, 0, 0, 1, 1], set(), {"<|im_end|>"}),
        ([0, 0, 1, 1, 0, 0, 1, 1], 7, [0, 0, 1, 1, 0, 0, 1], {"cut_answer"}, {"<|im_end|>"}),
        ([0, 0, 1, 1, 0, 0, 1, 1], 5, [0, 0, 1, 1, 0], set(), {"<|im_end|>"}),
        ([0, 0, 1, 0, 0, 0, 1, 1], 7, [0, 0, 1, 0, 0, 0, 1], {"cut_answer", "no_stop"}, set()),
        ([0, 0, 1, 1, 0, 0, 1, 0], 7, [0, 0, 1, 1, 0, 0, 1], {"no_stop"}, set()),
        ([0, 0, 0.5, 0.5, 0, 0, 1, 1], 3, [0, 0, 0.5], {"cut_answer"}, set()),
        ([0, 0, 0, 0, 0, 0, 1, 1], 6, None, set(), set()),
    ],
)
def test_rows_of_token_ids(make_builder, tokenizer, weights, max_length, kept, remarks, stops):
    end = tokenizer.control_tokens["<|im_end|>"]
    ids = [5, 6, 7, end, 8, 9, 10, end]
    outcome = cut(make_builder, tokens(ids, weights), max_length)
    assert (outcome.remarks, outcome.stop_tokens, outcome.too_long) == (remarks, stops, kept is None)
    assert [list(one.weights) for one in outcome.examples] == ([] if kept is None else [kept])
    assert [list(one.input_ids) for one in outcome.examples] == ([] if kept is None else [ids[:max_length]])


def test_truncation_keeps_the_loss_weight(make_builder, tokenizer):
    rules = DataConfig(overflow=Overflow.truncate)
    quarter = ExampleBuilder(tokenizer, make_builder().span_finder.template, rules, 3, loss_weight=0.25)
    assert quarter.build([tokens([1, 2, 3, 4], [0, 2, 1, 1])])[0].examples[0].weights == (0.0, 0.5, 0.25)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0])))
def test_runs_are_the_ranges_of_trained_tokens(weights):
    found = list(trained_ranges(weights))
    assert [i for start, end in found for i in range(start, end)] == [i for i, weight in enumerate(weights) if weight]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(found))
