"""``format: rendered``: texts that a template has rendered are split back into messages, exactly or not at all."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_delimiters import MISTRAL, PHI

from sft_cli.chat.masks import parity
from sft_cli.config.schema.data import Overflow
from sft_cli.types import Conversation
from tests.chat.helpers import SPECIAL, talk, text, trained
from tests.lanes import examples

DEFAULT_SYSTEM = """
{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' -}}{%- endif -%}
{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}
"""
TALKS = {
    "one turn": talk("U:hi", "A:yo"),
    "three turns": talk("U:hi", "A:yo", "U:a\n\nb", "A:c\n", "U:d", "A:e"),
    "system": talk("S:Be brief.", "U:hi", "A:yo", "U:q", "A:a"),
    "ends in a question": talk("U:hi", "A:yo", "U:q"),
}
TEMPLATES = {"chatml": "chatml", "alpaca": "alpaca", "vicuna": "vicuna", "llama2": "llama2", "phi": PHI,
             "mistral": MISTRAL, "default system": DEFAULT_SYSTEM}  # fmt: skip
UNKNOWN = {
    ("mistral", "system"),  # the template has no system message
    ("mistral", "ends in a question"),  # the end of a question is the header of an answer
    ("llama2", "ends in a question"),
}
PAIRS = [(template, name) for template in TEMPLATES for name in TALKS if (template, name) not in UNKNOWN]


def rendered(text):
    return Conversation((), "rows.jsonl:7", "mine", text=text, rendered=True)


def render_plain(builder, conversation):
    messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return builder.span_finder.template.render(messages, None, prompt=False)


@pytest.fixture
def known(build_tokenizer):
    """Return a tokenizer with the tokens of all these templates."""
    return build_tokenizer(
        special=(*SPECIAL, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "[INST]", "[/INST]")
    )


@pytest.mark.parametrize(("template", "name"), PAIRS)
def test_a_rendered_text_gives_the_example_of_its_conversation(make_builder, known, template, name):
    builder, conversation = make_builder(TEMPLATES[template], known), TALKS[name]
    expected = builder.build([conversation])[0]
    found = builder.build([rendered(render_plain(builder, conversation))])[0]
    assert found.problem is expected.problem is None, found.problem
    assert found.examples == tuple(expected.examples)


def test_white_space_and_the_ending_may_be_missing_and_eos_may_follow(make_builder, tokenizer):
    """Some data sets strip their rows, or add the end-of-text token that trainers expect."""
    whole = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    outcomes = make_builder().build(
        [rendered(one) for one in (whole, whole.strip(), whole.strip() + "</s>", whole + "</s>\n", whole[:-11])]
    )
    assert [trained(tokenizer, outcome) for outcome in outcomes] == [["yo<|im_end|>"]] * 5
    assert len({outcome.examples[0].input_ids for outcome in outcomes}) == 1


@pytest.mark.parametrize("bos", ["<s>", ""])
def test_the_bos_token_may_be_missing(make_builder, tokenizer, bos):
    source = "{{ bos_token }}" + DEFAULT_SYSTEM.strip()
    turns = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>"
    outcome = make_builder(source).build([rendered(bos + turns)])[0]
    assert trained(tokenizer, outcome) == ["a<|im_end|>"]
    assert text(tokenizer, outcome.examples[0]).startswith("<s><|im_start|>system\nS<")


@pytest.mark.parametrize(
    ("template", "value", "problem", "fix"),
    [
        (
            DEFAULT_SYSTEM,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n",
            "rendering its messages again gives another text: where it has"
            " 'user\\nhi<|im_end|>\\n<|im_start|>assistant\\n', this template writes"
            " 'system\\nBe kind.<|im_end|>\\n<|im_start|>us'",
            "set template=chatml, which renders it exactly so",
        ),
        (
            "chatml",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>critic\nyo<|im_end|>\n",
            "the text has no answer that this template would write",
            "correct the row",
        ),
        (
            "chatml",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo</s>.<|im_end|>\n",
            "message 2 (assistant) of the text contains '</s>' where this template does not write it ('yo</s>.')",
            "correct the row",
        ),
        (
            "chatml",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
            "the text ends where the answer should begin",
            "correct the row",
        ),
        (
            "chatml",
            "USER: hi ASSISTANT: yo",
            "this template has not rendered the text (it begins with 'USER: hi ASSISTANT: yo', and"
            " no message of a known role is found there)",
            "correct the row",
        ),
    ],
)
def test_a_text_that_the_template_would_not_write_is_rejected(make_builder, template, value, problem, fix):
    outcome = make_builder(template).build([rendered(value)])[0]
    assert outcome.problem is not None
    assert outcome.problem.problem.partition(": ")[2] == problem
    assert outcome.problem.fix.startswith(fix)


def test_a_rendered_text_has_a_golden_prompt(make_builder, tokenizer, tmp_path):
    builder = make_builder()
    golden = parity.golden_prompt(builder, rendered(render_plain(builder, TALKS["three turns"])))
    assert [message["content"] for message in golden.messages] == ["hi", "yo", "a\n\nb", "c\n", "d"]
    tokenizer.with_template(builder.span_finder.template.source).save(tmp_path / "server")
    assert parity.check_parity(tmp_path / "server", [golden]) == 1


def test_oldest_turns_of_a_rendered_text_can_be_dropped(make_builder, tokenizer):
    builder = make_builder(max_length=60, overflow=Overflow.drop_oldest_turns)
    conversation = talk("U:" + "x" * 40, "A:yo", "U:q", "A:a")
    outcome = builder.build([rendered(render_plain(builder, conversation))])[0]
    assert outcome.dropped_messages == 2
    assert trained(tokenizer, outcome) == ["a<|im_end|>"]


WORDS = st.text(st.sampled_from("ab \n:#["), min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(TEMPLATES)), st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
def test_splitting_restores_a_conversation_or_rejects_it(make_builder, known, template, exchanges):
    """A text without tags in its messages gives the example of its conversation or an error, never another example."""
    builder = make_builder(TEMPLATES[template], known)
    restored = talk(*(turn for question, answer in exchanges for turn in (f"U:{question}", f"A:{answer}")))
    expected = builder.build([restored])[0]
    assume(expected.problem is None)
    found = builder.build([rendered(render_plain(builder, restored))])[0]
    assert found.problem is not None or found.examples[0].input_ids == expected.examples[0].input_ids
    assert found.problem is not None or found.examples == expected.examples
