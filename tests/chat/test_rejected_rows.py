"""Rows whose mask cannot be proven are rejected, with the reason."""

import pytest

from sft_cli.chat.template.loading import load_template
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import Overflow, TrainOn
from sft_cli.errors import SftError
from sft_cli.types import Message
from tests.chat.helpers import problem, talk, text, trained

ECHO = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
CALL = {"type": "function", "function": {"name": "look", "arguments": {"city": "Oslo"}}}


def call(arguments):
    """Return an assistant message that calls a tool."""
    tool_call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    return Message("assistant", "", extra={"tool_calls": [tool_call]})


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}",
            "the answer ends in 'yo', not in a special token of the tokenizer: the model would never learn to stop",
        ),
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
            "the server's prompt before message 2 (assistant) is not the start of the trained text"
            " (they differ at '1hi</s>')",
        ),
        (
            "{% for m in messages %}{{ m.content | upper + eos_token }}{% endfor %}",
            "the template changes the content of message 1 (user): 'hi' to 'HI'",
        ),
        (
            "{% for m in messages %}{{ m.content + ('.' if m.role == 'assistant' else '') }}{% endfor %}</s>",
            "the server's prompt before message 2 (assistant) is not the start of the trained text"
            " (they differ at 'hi</s>')",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ '</s>.</s>' if m.role == 'assistant' }}{% endfor %}",
            "the template writes the stop token '</s>' inside message 2 (assistant) as well",
        ),
        ("{{ raise_exception('not me') }}", "the template refuses it: not me"),
        (
            "{{ messages[0].content + 1 }}",
            'the template fails on it: TypeError: can only concatenate str (not "int") to str',
        ),
        ("{{ 1 // 0 }}", "the template fails on it: ZeroDivisionError: integer division or modulo by zero"),
        ("{{ messages[0].content + '&#34;' | e }}", None),
    ],
)
def test_templates_that_cannot_be_proven(make_builder, template, why):
    outcome = make_builder(template).build([talk("U:hi", "A:yo")])[0]
    assert why is None or problem(outcome, "mine") == why
    assert outcome.examples == ()


RESERVED = "it holds one of U+FDD0 to U+FDEF, which Unicode reserves for internal use"


@pytest.mark.parametrize(
    ("message", "rules", "why"),
    [
        (Message("user", "b", 0.5), {}, "a user message has weight 0.5; only assistant turns are weighted"),
        (
            Message("assistant", "b", 0.0),
            {},
            "no assistant turn carries loss (no such turn, or all weights are 0)",
        ),
        (
            Message("assistant", "b", 0.0),
            {"train_on": TrainOn.all},
            "message 2 has weight 0, but data.train_on=all trains all of them",
        ),
        (
            Message("assistant", "<s>b"),
            {"sanitize": False},
            "it holds the special token '<s>' as text and data.sanitize is false",
        ),
        (Message("assistant", "\ufdd0b"), {}, RESERVED),
        (
            Message("assistant", "b", extra={"reasoning_content": "because", "thinking": "otherwise"}),
            {},
            "the template does not show the reasoning of message 2 (assistant): 'because'",
        ),
        (call({"city": "Oslo"}), {}, "the template does not show the name 'look' of call 1 in message 2 (assistant)"),
        (
            Message("assistant", "", extra={"tool_calls": [{"function": {"arguments": {}}}]}),
            {},
            "a tool call has no name",
        ),
    ],
)
def test_rows_that_cannot_be_proven(make_builder, message, rules, why):
    assert problem(make_builder(**rules).build([talk("U:a", message)])[0]) == why


@pytest.mark.parametrize("change", ["[:6]", " | tojson(ensure_ascii=True)", "[3:]"])
def test_template_that_breaks_marks_of_special_strings_is_rejected(make_builder, change):
    """Otherwise half a mark would let text of the user become a control token."""
    source = ECHO.replace("m.content", f"(m.content{change})")
    outcome = make_builder(source).build([talk("U:<|im_end|> is a token", "A:Right you are")])[0]
    assert problem(outcome, "mine") == "the template cuts or escapes a special-token string in a message"


def test_the_escape_of_a_mark_in_a_user_text_is_ordinary(make_builder, tokenizer):
    outcome = make_builder().build([talk("U:<s>", "A:\\ufdd0 is U+FDD0")])[0]
    assert trained(tokenizer, outcome) == ["\\ufdd0 is U+FDD0<|im_end|>"]


TEXT_ONLY = "{{ '{\"arguments\": ' + c.function.arguments + '}' }}"
OBJECT_ONLY = "{{ c.function.arguments.items() | list | length }}{{ c.function.arguments | tojson }}"
TOOLS = """
{%- for m in messages -%}
    {{- '<|im_start|>' + m.content -}}
    {%- for c in m.tool_calls or [] -%}{{- c.function.name -}}CALL{%- endfor -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{{- '<|im_start|>' if add_generation_prompt else '' -}}
"""


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (TEXT_ONLY, 'look{"arguments": {"city": "Oslo"}}<|im_end|>'),
        (OBJECT_ONLY, 'look1{"city": "Oslo"}<|im_end|>'),
    ],
)
def test_tool_arguments_have_the_form_that_the_template_reads(make_builder, tokenizer, how, expected, arguments):
    """Some templates fail on an object, others on text."""
    outcome = make_builder(TOOLS.replace("CALL", how)).build([talk("U:a", call(arguments))])[0]
    assert trained(tokenizer, outcome) == [expected]


@pytest.mark.parametrize("arguments", ["{}", '{"city": "Oslo"}', "not JSON"])
@pytest.mark.parametrize("position", [0, 1])
def test_tool_arguments_are_never_encoded_twice(make_builder, tokenizer, arguments, position):
    """``tojson`` of JSON text would teach a model to write escaped quotes, in its answer or in the history."""
    turns = [["U:a", call(arguments)], ["U:a", call(arguments), "U:b", "A:c"]][position]
    outcome = make_builder(TOOLS.replace("CALL", "{{ c.function.arguments | tojson }}"), train_on=TrainOn.last).build(
        [talk(*turns)]
    )[0]
    if arguments == "not JSON":
        assert problem(outcome, "mine") == "the template encodes tool arguments that are JSON text a second time"
    else:
        assert f"look{arguments}<|im_end|>" in text(tokenizer, outcome.examples[0])


def test_tool_arguments_that_the_data_encode_twice_are_rejected(make_builder):
    """Some exporters do so; the model would learn the escaped quotes."""
    outcome = make_builder(TOOLS.replace("CALL", TEXT_ONLY)).build([talk("U:a", call('"{\\"city\\": \\"Oslo\\"}"'))])[0]
    assert problem(outcome, "mine") == "its tool arguments are JSON text inside JSON text"


@pytest.mark.parametrize("question", ["a", "what is &#34;", "&#34;", "write &#34; and &#34; again"])
def test_tool_arguments_escaped_as_html_are_rejected(make_builder, question):
    """Mistral's templates do so with objects; the text form that they need is tried first.

    An entity in another message hides nothing.
    """
    how = "{{ c.function | tojson | e }}"
    outcome = make_builder(TOOLS.replace("CALL", how)).build([talk(f"U:{question}", call({"city": "Oslo"}))])[0]
    assert problem(outcome, "mine") == (
        "the template writes &#34; where the conversation has none (it escapes tool arguments)"
    )


def test_entities_of_the_conversation_may_be_written_twice(make_builder, tokenizer):
    """A template that repeats the question writes its entities twice, and escapes nothing."""
    twice = TOOLS.replace("CALL", "{{ messages[0].content }} {{ c.function | tojson }}")
    outcome = make_builder(twice).build([talk("U:how is &#34; written", "A:so")])[0]
    assert trained(tokenizer, outcome) == ["so<|im_end|>"]


def test_a_template_is_rejected_before_any_row(make_builder):
    with pytest.raises(SftError) as caught:
        make_builder("{% for m in messages %}{{ m.content }}{% endfor %}").template_check.check()
    assert caught.value.where == "template mine"
    assert caught.value.problem.endswith("the model would never learn to stop")


def test_a_template_without_generation_prompt_is_rejected_if_it_writes_headers(make_builder):
    """Otherwise the model would be trained to write the header itself."""
    with pytest.raises(SftError) as caught:
        make_builder(
            "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        ).template_check.check()
    assert str(caught.value) == (
        "template mine: it ignores add_generation_prompt: no server's prompt would contain the 'assistant:'"
        " before an answer\n  fix: write it at the template's end, inside {% if add_generation_prompt %}…{% endif %}"
    )


@pytest.mark.parametrize("name", ["alpaca", "chatml", "llama2", "vicuna", "plain"])
def test_packaged_templates_pass(make_builder, name):
    make_builder(name).template_check.check()


@pytest.mark.parametrize("name", ["alpaca", "llama2", "vicuna"])
def test_a_tokenizer_without_end_of_text_token(build_tokenizer, make_builder, name):
    with pytest.raises(SftError) as caught:
        make_builder(name, build_tokenizer(eos_token=None)).template_check.check()
    assert caught.value.where == f"template {name}"
    assert "'eos_token' is undefined" in caught.value.problem


def test_a_tokenizer_without_chat_template(tokenizer):
    with pytest.raises(SftError) as caught:
        load_template(TemplateConfig(), tokenizer)
    assert caught.value.problem == "template=auto, but the tokenizer has no chat template (a base model often has none)"
    assert (
        caught.value.fix == "choose one: template=alpaca, chatml, llama2, vicuna or plain, or template.path=FILE.jinja"
    )


def test_a_template_with_a_syntax_error(make_builder):
    with pytest.raises(SftError) as caught:
        make_builder("{% if %}{{ messages }}")
    assert caught.value.where == "template mine, line 1"


LONG = ("S:sys", "U:one", "A:1", "U:two", "A:2", "U:three", "A:3")


def test_too_long(make_builder):
    outcome = make_builder(max_length=80).build([talk(*LONG)])[0]
    assert outcome.too_long
    assert str(outcome.problem) == (
        "rows.jsonl:7: 89 tokens, longer than trainer.max_length=80\n"
        "  fix: trainer.max_length=89, or data.overflow=drop or drop_oldest_turns or truncate"
    )


@pytest.mark.parametrize(("max_length", "dropped", "expected"), [(89, 0, "1 2 3"), (88, 2, "2 3"), (63, 4, "3")])
def test_whole_turns_are_dropped_from_the_front(make_builder, tokenizer, max_length, dropped, expected):
    outcome = make_builder(max_length=max_length, overflow=Overflow.drop_oldest_turns).build([talk(*LONG)])[0]
    assert outcome.dropped_messages == dropped
    assert trained(tokenizer, outcome) == ["|".join(f"{answer}<|im_end|>" for answer in expected.split())]
    assert text(tokenizer, outcome.examples[0]).startswith("<|im_start|>system\nsys<|im_end|>\n<|im_start|>user\n")


def test_drop_oldest_turns_never_cuts_an_answer(make_builder):
    outcome = make_builder(max_length=40, overflow=Overflow.drop_oldest_turns).build(
        [talk("U:a", "A:" + "b" * 99, "U:c", "A:" + "d" * 99)]
    )[0]
    assert outcome.too_long
    assert outcome.examples == ()
    assert outcome.problem.fix == "trainer.max_length=241, or data.overflow=drop"


def test_a_conversation_of_a_thousand_turns_is_shortened(make_builder, tokenizer):
    """This is fast and does not recurse for each turn."""
    turns = [turn for _ in range(400) for turn in ("U:a", "A:b")]
    outcome = make_builder(max_length=100, overflow=Overflow.drop_oldest_turns).build([talk(*turns)])[0]
    assert trained(tokenizer, outcome) == ["|".join(["b<|im_end|>"] * 4)]
    assert outcome.dropped_messages == 792


def test_a_template_that_writes_the_day_is_remarked(make_builder, tokenizer):
    source = "{{ strftime_now('%d %b %Y') }}" + TOOLS.replace("CALL", "{{ c.function.arguments | tojson }}")
    assert make_builder(source).build([talk("U:a", "A:b")])[0].remarks == {"dated"}
    unused = source.replace("{{ strftime_now('%d %b %Y') }}", "{{ strftime_now('%d') if tools }}")
    assert make_builder(unused).build([talk("U:a", "A:b")])[0].remarks == frozenset()


@pytest.mark.parametrize(
    ("turns", "tools", "fix"),
    [
        (["U:a", "A:b"], ({"function": {"name": "w", "description": "d"}},), "'data.mix.mine.ignore=[tools]'"),
        (["S:be brief", "U:a", "A:b"], None, "data.override_system=true data.system=''"),
    ],
)
def test_the_fix_for_content_that_a_template_cannot_show(make_builder, turns, tools, fix):
    source = TOOLS.replace("CALL", "").replace("m.content -}}", "(m.content if m.role != 'system' else '') -}}")
    outcome = make_builder(source).build([talk(*turns, tools=tools)])[0]
    assert "does not show" in outcome.problem.problem
    assert fix in outcome.problem.fix
