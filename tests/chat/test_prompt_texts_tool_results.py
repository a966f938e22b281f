"""Trained tool results: tables by hand, rejections, and the property that only weights change."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_chat_properties import TEXTS, TRIMMING
from test_no_loss_spans import CALLING, CALLS
from tokenizers import decoders, models, normalizers

from sft_cli.config.schema.data import TrainOn
from sft_cli.types import Message
from tests.chat.helpers import FORGETFUL, letters, problem, table, talk, text, trained
from tests.lanes import examples

CALL = Message("assistant", "", extra=CALLS)
ONE = talk("U:q", CALL, "T:sun", "A:done")
TAGGED = """
{%- for m in messages -%}
    {%- if m.role == 'tool' -%}
        {{- '<|im_start|>user\\n<tool>\\n' + RESULT + '\\n</tool><|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + m.role + '\\n' + m.content -}}
        {%- for c in m.tool_calls or [] -%}{{- c.function.name ~ c.function.arguments | tojson -}}{%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""
PLAIN = TAGGED.replace("RESULT", "m.content")
ESCAPED = TAGGED.replace("RESULT", "m.content | tojson")
SHOWN = 'look{"a": "b"}<|im_end|>'
UNLIKE = (
    "the template does not write the tool results unchanged and in order (it escapes, cuts, merges, moves"
    " or repeats them), so that data.train_on_tool_results=true cannot train them"
)


def test_a_tool_result_carries_loss_without_its_tags_and_without_a_stop(make_builder, tokenizer):
    """The table is the specification."""
    (example,) = make_builder(PLAIN, train_on_tool_results=True).build([ONE])[0].examples
    assert table(tokenizer, example) == [
        ("<|im_start|>", 0), *((letter, 0) for letter in "user\nq"), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "assistant\n"),
        *((letter, 1) for letter in 'look{"a": "b"}'), ("<|im_end|>", 1), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "user\n<tool>\n"), ("s", 1), ("u", 1), ("n", 1),
        *((letter, 0) for letter in "\n</tool>"), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "assistant\n"),
        *((letter, 1) for letter in "done"), ("<|im_end|>", 1),
    ]  # fmt: skip


def test_by_default_tool_results_carry_no_loss(make_builder, tokenizer):
    assert trained(tokenizer, make_builder(PLAIN).build([ONE])[0]) == [f"{SHOWN}|done<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "result", "expected"),
    [
        (CALLING, "sun", "sun"),
        (CALLING, " sun\n", " sun\n"),
        (CALLING, "<|im_end|></s>", "<|im_end|></s>"),
        (CALLING, "e\u0301 \U0001f600", "e\u0301 \U0001f600"),
        (CALLING, "", None),
        (CALLING, " \n", None),
        (TRIMMING, " sun\n", "sun"),
        (TRIMMING, " \n", None),
        (ESCAPED, "sun", "sun"),
    ],
)
def test_the_trained_text_of_a_result_is_as_the_template_shows_it(make_builder, tokenizer, template, result, expected):
    """All of it is trained except white space that the template trims; JSON contains `"sun"` unchanged."""
    outcome = make_builder(template, train_on_tool_results=True).build([talk("U:q", "A:a", f"T:{result}", "A:b")])[0]
    parts = ["a<|im_end|>", expected, "b<|im_end|>"]
    assert trained(tokenizer, outcome) == ["|".join(part for part in parts if part is not None)]


@pytest.mark.parametrize(
    ("result", "expected"),
    [("[1]", "[1"), ("[1] ", "[1] "), ("]", None), ("\na", "a"), ("a\n", "a"), ("a\n\nb", "a\n\nb")],
)
def test_a_token_that_the_template_shares_carries_no_loss(make_builder, build_tokenizer, result, expected):
    """The ids are those of the whole text: ``]`` and the newline after it are one token."""
    tokenizer = build_tokenizer(letters("]\n", "\n\n"))
    conversation = talk("U:q", "A:a", f"T:{result}", "A:b")
    outcome = make_builder(PLAIN, tokenizer, train_on_tool_results=True).build([conversation])[0]
    parts = ["a<|im_end|>", expected, "b<|im_end|>"]
    assert trained(tokenizer, outcome) == ["|".join(part for part in parts if part is not None)]
    assert (
        outcome.examples[0].input_ids == make_builder(PLAIN, tokenizer).build([conversation])[0].examples[0].input_ids
    )


@pytest.mark.parametrize(
    ("turns", "rules", "expected"),
    [
        (["U:q", CALL, "T:1", "T:2", "A:b"], {}, f"{SHOWN}|1|2|b<|im_end|>"),
        (["U:q", CALL, "T:1", "A:b", "U:r", CALL, "T:2", "A:c"], {"train_on": TrainOn.last}, "1|2|c<|im_end|>"),
        (["U:q", CALL, "T:1", "A:b"], {"train_on_tool_calls": False}, "1|b<|im_end|>"),
        (["U:q", CALL, Message("tool", "1", 0.0), "T:2", "A:b"], {}, f"{SHOWN}|2|b<|im_end|>"),
        (["U:q", CALL, "T:1", Message("assistant", "b", 0.0), "U:r", "A:c"], {}, f"{SHOWN}|1|c<|im_end|>"),
        (["U:q", CALL, "T:1", "A:SECRET", "U:r", "A:c"], {"no_loss_patterns": ["SECRET"]}, f"{SHOWN}|1|c<|im_end|>"),
        (["U:q", CALL, Message("tool", "1", 0.0)], {}, SHOWN),
    ],
)
def test_which_tool_results_are_trained(make_builder, tokenizer, turns, rules, expected):
    """All results of an example are trained, independent of the trained answers; weight 0 excludes a result."""
    outcome = make_builder(PLAIN, train_on_tool_results=True, **rules).build([talk(*turns)])[0]
    assert "|".join(trained(tokenizer, outcome)) == expected


def test_in_an_unrolled_conversation_each_result_trains_once(make_builder, tokenizer):
    """It is trained in the first example that contains it; later ones contain what the template keeps of it."""
    conversation = talk("U:q", "A:aa", "T:sun", "A:bb", "U:r", "A:cc", "T:rain", "A:dd")
    outcome = make_builder(FORGETFUL, train_on_tool_results=True).build([conversation])[0]
    assert trained(tokenizer, outcome) == ["aa<|im_end|>", "sun|bb<|im_end|>", "cc<|im_end|>", "rain|dd<|im_end|>"]
    assert "tool\nsun<" in text(tokenizer, outcome.examples[1])
    assert "tool\n(old)sun<" in text(tokenizer, outcome.examples[2])


@pytest.mark.parametrize(
    ("shown", "results"),
    [
        ("m.content | tojson", ['say "hi"']),
        ("m.content | tojson(ensure_ascii=True)", ["sun"]),
        ("m.content + m.content", ["sun"]),
        ("m.content | upper", ["sun"]),
        ("m.content[:2]", ["sun"]),
        ("m.content | replace('s', '')", ["sun"]),
        ("(m.content | length) ~ m.content", ["sun"]),
        ("messages[(loop.index0 + 1) % messages | length].content + m.content", ["sun", "rain"]),
        ("messages[5 - loop.index0].content", ["sun", "rain"]),
    ],
)
def test_a_template_that_changes_moves_or_repeats_a_result_is_rejected(make_builder, shown, results):
    conversation = talk("U:q", CALL, *(f"T:{result}" for result in results), "A:done")
    template = TAGGED.replace("RESULT", shown)
    assert problem(make_builder(template, train_on_tool_results=True).build([conversation])[0], "mine") == UNLIKE


def test_a_template_that_parses_a_result_is_rejected(make_builder):
    """The template would parse the reserved characters as a part of the result."""
    checked = "(m.content if m.content[:1] == '{' else raise_exception('not JSON'))"
    outcomes = make_builder(TAGGED.replace("RESULT", checked), train_on_tool_results=True).build(
        [talk("U:q", CALL, "T:{}", "A:b")]
    )
    assert problem(outcomes[0], "mine") == UNLIKE


def test_a_result_that_no_example_shows_is_rejected(make_builder):
    conversation = talk("U:q", "A:a", "U:r", CALL, "T:sun")
    assert problem(make_builder(PLAIN, train_on_tool_results=True).build([conversation])[0], "mine") == (
        "message 5 (tool) comes after the last answer that carries loss: no example shows this result"
        " (data.train_on_tool_results)"
    )


def test_a_character_that_a_shared_token_cuts_carries_no_loss(make_builder, build_tokenizer):
    """The template's newline and the first byte of é are one token; the other bytes alone cannot be decoded."""
    backend = letters()
    vocabulary = backend.get_vocab()
    for pair in (("\u010a", "\u00c3"), ("\u00a9", "\u010a")):
        vocabulary["".join(pair)] = len(vocabulary)
    backend.model = models.BPE(vocabulary, [("\u010a", "\u00c3"), ("\u00a9", "\u010a")])
    conversation = talk("U:q", "A:a", "T:\u00e9bc\u00e9", "A:d")
    tokenizer = build_tokenizer(backend)
    outcome = make_builder(PLAIN, tokenizer, train_on_tool_results=True).build([conversation])[0]
    ids = [id for id, weight in zip(outcome.examples[0].input_ids, outcome.examples[0].weights, strict=True) if weight]
    assert tokenizer.decode_batch([ids]) == ["a<|im_end|>bcd<|im_end|>"]
    backend.decoder = decoders.Sequence([decoders.ByteLevel()])
    undecodable = make_builder(PLAIN, build_tokenizer(backend), train_on_tool_results=True).build([conversation])[0]
    assert problem(undecodable, "mine") == "the tool result '\u00e9bc\u00e9' cannot be separated in its ids"


def test_a_result_that_normalization_merges_with_template_text_is_rejected(make_builder, build_tokenizer):
    """NFC joins the template's e and the accent at the start of the result into one character."""
    backend = letters()
    backend.normalizer = normalizers.NFC()
    tokenizer = build_tokenizer(backend)
    builder = make_builder(TAGGED.replace("RESULT", "'e' + m.content"), tokenizer, train_on_tool_results=True)
    assert trained(tokenizer, builder.build([talk("U:q", "A:a", "T:xe\u0301", "A:b")])[0]) == [
        "a<|im_end|>|x\u00e9|b<|im_end|>"
    ]
    assert problem(builder.build([talk("U:q", "A:a", "T:\u0301x", "A:b")])[0], "mine") == (
        "the tool result '\u0301x' cannot be separated in its ids"
    )


LAW = settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("merges", [(), ("\n\n", "  ", " a", "ab", "]\n", "a\n")], ids=["letters", "merges"])
@pytest.mark.parametrize("decoder", [decoders.ByteLevel(), decoders.Sequence([decoders.ByteLevel()])], ids=["b", "d"])
@pytest.mark.parametrize("template", ["chatml", TRIMMING, PLAIN], ids=["chatml", "trimming", "tagged"])
@LAW
@given(results=st.lists(TEXTS, min_size=1, max_size=3), answers=st.lists(TEXTS, min_size=3, max_size=3))
def test_training_results_changes_only_weights(
    make_builder, build_tokenizer, template, decoder, merges, results, answers
):
    """The ids are unchanged; the results are trained too, in order, without tokens shared with the template.

    This holds if the bytes of tokens are known, and if only the decoder gives their text.
    """
    backend = letters(*merges)
    backend.decoder = decoder
    tokenizer = build_tokenizer(backend)
    turns = [turn for pair in zip(results, answers, strict=False) for turn in (f"T:{pair[0]}", f"A:{pair[1]}")]
    conversation = talk("U:q", "A:a", *turns)
    before = make_builder(template, tokenizer).build([conversation])[0]
    after = make_builder(template, tokenizer, train_on_tool_results=True).build([conversation])[0]
    if before.problem is not None:
        return
    assert after.problem is None
    extra = []
    for old, new in zip(before.examples, after.examples, strict=True):
        assert new.input_ids == old.input_ids
        assert all(new.weights[i] == 1.0 for i, weight in enumerate(old.weights) if weight)
        more = [0, *(int(a != b) for a, b in zip(old.weights, new.weights, strict=True)), 0]
        edges = [i for i in range(len(more) - 1) if more[i] != more[i + 1]]
        extra += [tokenizer.decode_batch([new.input_ids[a:b]])[0] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    shown = [result.strip() if template == TRIMMING else result for result in results if result.strip()]
    if not merges:
        assert extra == shown
    else:
        assert all(any(piece in result for result in shown) for piece in extra)
        assert sum(map(len, shown)) - sum(map(len, extra)) <= 2 * len(shown)
