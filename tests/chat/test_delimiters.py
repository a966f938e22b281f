"""Template tags inside texts: stop tokens at the end of answers, rendered turns, plain-text headers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_properties import TRIMMING

from sft_cli.chat.masks import parity
from sft_cli.config.schema.data import Delimiters
from sft_cli.types import Conversation, Message
from tests.chat.helpers import SPECIAL, talk, text, trained
from tests.lanes import examples

PHI = """
{%- for m in messages -%}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' -}}{%- endfor -%}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token -}}
"""
MISTRAL = """
{{- bos_token -}}
{%- for m in messages -%}
    {{- '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + eos_token -}}
{%- endfor -%}
"""
RENDERED = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


def refusal(outcome):
    assert outcome.problem is not None
    assert outcome.problem.where == "rows.jsonl:7"
    return outcome.problem.problem


@pytest.mark.parametrize(
    ("template", "answer", "expected"),
    [
        ("chatml", "5<|im_end|>", "5<|im_end|>"),
        ("chatml", "5<|im_end|>\n", "5<|im_end|>"),
        ("chatml", "5 <|im_end|> <|im_end|>\n\n", "5 <|im_end|>"),
        ("chatml", "<|im_end|>", "<|im_end|>"),
        (TRIMMING, "5<|im_end|>\n", "5<|im_end|>"),
        ("alpaca", "5</s>", "5</s>"),
        ("llama2", "5</s>", " 5 </s>"),
    ],
)
def test_a_stop_token_at_the_end_of_an_answer_is_removed(make_builder, tokenizer, template, answer, expected):
    outcome = make_builder(template).build([talk("U:q", f"A:{answer}")])[0]
    assert trained(tokenizer, outcome) == [expected]
    assert "own_stop" in outcome.remarks
    assert "sanitized" not in outcome.remarks


@pytest.mark.parametrize("answer", ["5<|im_end|>.", "<|im_end|> is the token", "5</s>", "5<|im_start|>"])
def test_other_special_tokens_stay_text(make_builder, tokenizer, answer):
    """Also another special token at the end: chatml does not write that."""
    outcome = make_builder().build([talk("U:q", f"A:{answer}")])[0]
    assert trained(tokenizer, outcome) == [f"{answer}<|im_end|>"]
    assert "sanitized" in outcome.remarks
    assert "own_stop" not in outcome.remarks


def test_every_closing_token_of_every_answer_is_removed(make_builder, build_tokenizer):
    tokenizer = build_tokenizer(special=(*SPECIAL, "<|user|>", "<|assistant|>", "<|end|>"))
    builder = make_builder(PHI, tokenizer)
    outcome = builder.build(
        [talk("U:q", "A:1<|end|>\n</s>", "U:r", Message("assistant", "2<|end|>", 0.0), "U:s", "A:3")]
    )[0]
    assert trained(tokenizer, outcome) == ["1<|end|>|3<|end|>"]
    assert "own_stop" in outcome.remarks
    assert text(tokenizer, outcome.examples[0]).count("<|end|>") == 6


def test_the_golden_prompt_has_the_trained_history(make_builder, tokenizer, tmp_path):
    builder = make_builder()
    golden = parity.golden_prompt(builder, talk("U:q", "A:a<|im_end|>", "U:r", "A:b"))
    assert [message["content"] for message in golden.messages] == ["q", "a", "r"]
    tokenizer.with_template(builder.span_finder.template.source).save(tmp_path / "server")
    assert parity.check_parity(tmp_path / "server", [golden]) == 1


@pytest.mark.parametrize(
    "texts",
    [
        ("U:" + RENDERED,),
        ("U:Answer this:\n" + RENDERED,),
        ("S:<|im_start|>system\nBe brief.<|im_end|>", "U:q"),
        ("U:<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",),
        ("U:q<|im_end|>\n<|im_start|>assistant",),
        ("U:<|im_start|>user q <|im_end|>",),
    ],
)
def test_a_question_with_rendered_turns_is_rejected(make_builder, texts):
    outcome = make_builder().build([talk(*texts, "A:a")])[0]
    assert refusal(outcome).startswith("message 1 (")
    assert "contains turns that a template has already rendered ('<|im_start|>" in refusal(outcome)
    assert outcome.problem.fix == (
        "data.mix.mine.format=rendered reads a text column with the whole conversation; otherwise write the"
        " messages without the template's tags"
    )


def test_a_document_with_rendered_turns_is_rejected(make_builder):
    outcome = make_builder().build([Conversation((), "rows.jsonl:7", "mine", text=RENDERED)])[0]
    assert refusal(outcome).startswith("the document contains turns that a template has already rendered")


@pytest.mark.parametrize(
    ("question", "refused"),
    [
        ("[INST] q [/INST]", True),
        ("[INST]q[/INST]a</s>", True),
        ("<s>[INST] q [/INST] a", True),
        ("What do [INST] and [/INST] mean?", False),
        ("[INST] q", False),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_bracketed_turns_are_rejected_as_tokens_and_as_text(make_builder, build_tokenizer, question, refused, known):
    """In Llama 2 ``[INST]`` is text, in Mistral's tokenizers a token."""
    tokenizer = build_tokenizer(special=(*SPECIAL, "[INST]", "[/INST]") if known else SPECIAL)
    outcome = make_builder(MISTRAL, tokenizer).build([talk(f"U:{question}", "A:a")])[0]
    assert (outcome.problem is not None) == refused
    assert ("sanitized" in outcome.remarks) == (known and not refused)
    assert ("header" in outcome.remarks) == (not known and not refused)


@pytest.mark.parametrize(
    "question",
    [
        "what does <|im_end|> mean?",
        "<|im_end|>",
        "Is <|im_start|>user a header, and <|im_end|> a stop?",
        "A prompt ends in <|im_start|>assistant and the answer follows.",
        "<|im_start|>",
    ],
)
def test_mentioned_tags_stay_text(make_builder, tokenizer, question):
    outcome = make_builder().build([talk(f"U:{question}", "A:a")])[0]
    assert outcome.problem is None
    assert "sanitized" in outcome.remarks
    assert f"user\n{question}<|im_end|>" in text(tokenizer, outcome.examples[0])


def test_assistant_and_tool_messages_are_not_checked(make_builder, tokenizer):
    outcome = make_builder().build([talk("U:q", f"A:{RENDERED}.", "T:" + RENDERED, "A:a")])[0]
    assert trained(tokenizer, outcome) == [f"{RENDERED}.<|im_end|>|a<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "message", "header"),
    [
        ("alpaca", "U:Add.\n\n### Response:\n5", "### Response:"),
        ("alpaca", "U:### Instruction: add", "### Instruction:"),
        ("alpaca", "U:What is a line with ### Response: in it?", ""),
        ("alpaca", "U:Add.\n\n### Input:\n2", ""),
        ("vicuna", "U:hi ASSISTANT: yo", "ASSISTANT:"),
        ("vicuna", "U:hi\nUSER: yo", "USER:"),
        ("vicuna", "U:hi MYUSER: yo", ""),
        ("llama2", "U:what is [/INST]?", "[/INST]"),
        ("plain", "U:### Response:", ""),
        ("chatml", "U:### Response:\n", ""),
        ("chatml", "U:<|im_start|>user", ""),
    ],
)
def test_a_header_without_special_tokens_is_remarked(make_builder, template, message, header):
    conversation = talk(message, "A:a")
    outcome = make_builder(template).build([conversation])[0]
    assert outcome.problem is None
    assert ("header" in outcome.remarks) == bool(header)
    strict = make_builder(template, delimiters=Delimiters.error).build([conversation])[0]
    if header:
        assert refusal(strict) == (
            f"a message contains {header!r}, a header of the template, which looks real to the model"
            " (data.delimiters=error)"
        )
        assert strict.problem.fix == ("correct the row, or set data.delimiters=warn")
    else:
        assert strict == outcome


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "user", "assistant", "\n", " ", "x"]), max_size=8))
def test_answers_end_in_exactly_one_stop_token(make_builder_once, parts):
    tokenizer, builder = make_builder_once
    answer = "x" + "".join(parts)
    outcome = builder.build([talk("U:q", f"A:{answer}")])[0]
    bare = answer
    while bare.rstrip().endswith("<|im_end|>"):
        bare = bare.rstrip().removesuffix("<|im_end|>")
    assert trained(tokenizer, outcome) == [f"{bare}<|im_end|>"]
    assert ("own_stop" in outcome.remarks) == (bare != answer)


@pytest.fixture(scope="module")
def make_builder_once(tmp_path_factory):
    """Make one tokenizer and make_builder for all inputs of a property."""
    from tokenizers import AddedToken

    from sft_cli.chat.examples import ExampleBuilder
    from sft_cli.chat.template.loading import load_template
    from sft_cli.chat.tokens.tokenizer import load_tokenizer
    from sft_cli.config.schema.config import TemplateConfig
    from sft_cli.config.schema.data import DataConfig
    from tests.chat.helpers import letters

    backend, directory = letters(), tmp_path_factory.mktemp("tags")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    tokenizer = load_tokenizer(str(directory))
    return tokenizer, ExampleBuilder(
        tokenizer, load_template(TemplateConfig(name="chatml"), tokenizer), DataConfig(), 999
    )
