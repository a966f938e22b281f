"""Documents and token ids, and the loss weight of a source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.chat.documents import split_document
from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.config.schema.data import DataConfig, Overflow
from sft_cli.types import Conversation, Example, TokenIds
from tests.chat.helpers import letters, talk, text


def tokens(ids, weights):
    return Conversation((), "rows.jsonl:7", "mine", tokens=TokenIds(tuple(ids), tuple(weights)))


def document(text):
    return Conversation((), "rows.jsonl:7", "mine", text=text)


@pytest.fixture
def with_options(make_builder, tokenizer):
    """Return a function that makes a builder with the options of a source."""

    def builder(max_length=1000, rules=None, **options):
        template = make_builder().span_finder.template
        return ExampleBuilder(tokenizer, template, rules or DataConfig(), max_length, **options)

    return builder


def test_token_ids_are_trained_unchanged(make_builder, tokenizer):
    end = tokenizer.control_tokens["<|im_end|>"]
    outcome = make_builder().build([tokens([5, 6, 7, end], [1, 0, 0.5, 1])])[0]
    assert outcome.examples == (Example((5, 6, 7, end), (0.0, 0, 0.5, 1), "rows.jsonl:7", "mine"),)
    assert outcome.stop_tokens == {"<|im_end|>"}
    assert make_builder().build([tokens([5, 6, 7], [0, 0, 1])])[0].stop_tokens == frozenset()


@pytest.mark.parametrize(
    ("weights", "endless"),
    [
        pytest.param([0, 0, 1, 1, 0, 0, 1, 1], False, id="both-stops-trained"),
        pytest.param([0, 0, 1, 0, 0, 0, 1, 1], True, id="first-stop-masked"),
        pytest.param([0, 0, 1, 1, 0, 0, 1, 0], True, id="last-stop-masked"),
        pytest.param([0, 0, 1, 1, 0, 0, 0, 0], False, id="second-answer-untrained"),
        pytest.param([0, 1, 0, 0, 0, 0, 1, 1], False, id="untrained-inside-an-answer"),
    ],
)
def test_an_answer_of_token_ids_without_its_stop_is_a_remark(make_builder, tokenizer, weights, endless):
    end = tokenizer.control_tokens["<|im_end|>"]
    outcome = make_builder().build([tokens([5, 6, 7, end, 8, 9, 10, end], weights)])[0]
    assert outcome.remarks == ({"no_stop"} if endless else frozenset())


def test_an_answer_that_ends_with_the_row_has_no_stop(make_builder, with_options):
    cut = tokens([5, 6, 7], [0, 0, 1])
    assert make_builder().build([cut])[0].remarks == {"no_stop"}
    assert with_options(split_documents=True).build([cut])[0].remarks == frozenset()  # a replayed document


@pytest.mark.parametrize(
    ("ids", "weights", "why"),
    [
        ([1, 260, 2], [0, 1, 1], "id 260 is not one of the tokenizer's 260: another tokenizer wrote it"),
        ([1, -100, 2], [0, 1, 1], "id -100 is not one of the tokenizer's 260: another tokenizer wrote it"),
        ([1, 2, 3], [0, 0, 0], "no token carries loss"),
        ([1, 2, 3], [1, 0, 0], "no token carries loss except the first, which nothing predicts"),
        ([1, 2, 3], [0, 1], "it has 3 ids and 2 weights"),
        ([], [], "no token carries loss"),
        ([1, 2, 3], [0, 1, -1], "a weight is negative or not finite"),
        ([1, 2, 3], [0, 1, float("nan")], "a weight is negative or not finite"),
    ],
)
def test_token_ids_that_cannot_be_trained_on(make_builder, ids, weights, why):
    outcome = make_builder().build([tokens(ids, weights)])[0]
    assert str(outcome.problem) == (
        f"rows.jsonl:7: its token ids cannot be trained on: {why}\n  fix: prepare the row with this tokenizer"
    )
    assert outcome.examples == ()


@pytest.mark.parametrize(
    ("overflow", "fix"),
    [(Overflow.error, "drop or truncate"), (Overflow.drop, "drop"), (Overflow.drop_oldest_turns, "drop")],
)
def test_token_ids_have_no_turns_to_drop(make_builder, overflow, fix):
    outcome = make_builder(max_length=8, overflow=overflow).build([tokens(range(9), [1] * 9)])[0]
    assert outcome.too_long
    assert str(outcome.problem) == (
        f"rows.jsonl:7: 9 tokens, longer than trainer.max_length=8\n  fix: trainer.max_length=9, or data.overflow={fix}"
    )


def test_rows_of_all_kinds_in_one_batch(make_builder, tokenizer):
    outcomes = make_builder().build([talk("U:a", "A:b"), tokens([1, 2], [0, 1]), document("c"), tokens([], [])])
    assert [len(outcome.examples) for outcome in outcomes] == [1, 1, 1, 0]
    assert text(tokenizer, outcomes[2].examples[0]) == "c</s>"
    assert parity.golden_prompt(make_builder(), tokens([1, 2], [0, 1])) is None


def test_a_long_document_is_split(with_options, tokenizer):
    """A part begins with the last token of the previous part, without loss; only the last part ends in end-of-text."""
    outcome = with_options(8, split_documents=True).build([document("abcdefghijklmnopq")])[0]
    assert [text(tokenizer, example) for example in outcome.examples] == ["abcdefgh", "hijklmno", "opq</s>"]
    assert [example.weights for example in outcome.examples] == [(0.0, *[1.0] * 7), (0.0, *[1.0] * 7), (0.0, 1, 1, 1)]
    assert outcome.num_pieces == 3
    assert with_options(8, split_documents=True).build([document("abc")])[0].num_pieces == 0


def test_a_long_document_is_not_split_by_default(with_options):
    assert with_options(8).build([document("abcdefghijklmnopq")])[0].too_long
    assert with_options(8, split_documents=True).build([talk("U:a", "A:b")])[0].too_long


@given(length=st.integers(2, 60), max_length=st.integers(2, 20))
def test_every_token_of_a_document_is_predicted_once(length, max_length):
    whole = Example(tuple(range(length)), (0.0, *[1.0] * (length - 1)), "rows.jsonl:7", "mine")
    found = list(split_document(whole, max_length))
    assert all(2 <= len(piece.input_ids) <= max_length for piece in found)
    predicted = [id for piece in found for id, weight in zip(piece.input_ids, piece.weights, strict=True) if weight]
    assert predicted == list(range(1, length))
    context = [(piece.input_ids[i - 1], piece.input_ids[i]) for piece in found for i in range(1, len(piece.input_ids))]
    assert context == [(i - 1, i) for i in range(1, length)]


def test_the_loss_weight_of_a_source_multiplies_every_weight(with_options):
    make_builder = with_options(8, split_documents=True, loss_weight=0.25)
    outcomes = make_builder.build([document("abcdefghij"), tokens([1, 2, 3], [0, 2, 1])])
    assert {weight for example in outcomes[0].examples for weight in example.weights} == {0.0, 0.25}
    assert outcomes[1].examples[0].weights == (0.0, 0.5, 0.25)


def test_ids_are_checked_against_the_vocabulary(build_tokenizer, make_builder):
    tokenizer = build_tokenizer(letters("ab", "cd"))
    assert make_builder(with_tokenizer=tokenizer).build([tokens([1, 261], [0, 1])])[0].problem is None
