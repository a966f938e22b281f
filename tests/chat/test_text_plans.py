"""Assembled texts equal rendered ones for every template and content; templates that read contents have no plan."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sft_cli.chat.masks.spans import SpanFinder
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.sandbox import budget
from sft_cli.types import Conversation, Message
from tests.chat.helpers import SPECIAL, talk
from tests.lanes import examples

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "template"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "masks" / "templates"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}BODY{{ '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
PLANNED = [
    "{{ m.content }}",
    "{{ m['content'] | trim }}",
    "{{ m.content.strip() }}",
    "{{ m.content.lstrip('\n') }}",
    "{{ m.content | default('') | string }}",
    "{{ m.get('content') }}",
    "{{ 'a ' ~ m.content ~ ' b' }}",
    "{{ (' a ' + m.content + ' b ') | trim }}",
    "{% set x %}{{ m.content }}{% endset %}{{ x }}",
    "{% filter trim %}{{ m.content }}{% endfilter %}",
    "{% if m.content is string and m.content is not none %}{{ m.content }}{% endif %}",
    "{% if m.content and m.content != '' %}{{ m.content }}{% else %}-{% endif %}",
    "{% if '<x>' in m.content %}!{% endif %}{{ m.content }}",
    "{% if m.content.startswith('<x>') %}!{% endif %}{{ m.content }}",
    "{% if m.content.endswith('b') %}!{% endif %}{{ m.content }}",
    "100%{{ m.content }}%s",
]
READING = [
    "{{ m.content | length }}{{ m.content }}",
    "{{ m.content[:3] }}{{ m.content[3:] }}",
    "{{ m.content }}{{ '!' if m.content == 'a' }}",
    "{{ m.content }}{{ '!' if m.content is sequence and m.content | length > 5 }}",
    "{{ m.content }}{{ '!' if m.content.split('x') | length > 1 }}",
    "{{ m.content }}{{ '!' if m.content | int > 5 }}",
    "{{ m.content }}{{ '!' if m.content in ['a', 'b'] }}",
    "{{ m.content }}{{ '!' if m.content > 'b' }}",
    "{{ m.content }}{{ '!' if m.content.isupper() }}",
    "{{ m.content }}{{ '!' if m.content.isupper is defined and m.content is upper }}",
    "{{ m.content | replace('a', 'b') }}",
    "{{ m.content | upper }}",
    "{{ '%s' % m.content }}",
    "{{ '{}'.format(m.content) }}",
    "{{ m.content | e }}",
    "{% autoescape true %}{{ m.content }}{% endautoescape %}",
    "{% set x %}{{ m.content }}{% endset %}{{ x }}{{ x | length }}",
    "{% macro say(c) %}{{ c }}{% endmacro %}{{ say(m.content) }}{{ '!' if 'a' in say(m.content ~ 'b') }}",
    "{{ m.content }}{{ messages | map(attribute='content') | join | length }}",
    "{{ m.content }}{{ messages | map(attribute='content') | unique | list | length }}",
    "{{ m.content }}{{ m | string | length }}",
    "{{ m.content }}{{ m | tojson | length }}",
    "{{ m.content }}{{ '!' if loop.changed(m.content) }}",
    "{{ m.content }}{{ messages | selectattr('content', 'equalto', 'a') | list | length }}",
    "{% for c in m.content %}{{ c }}{% endfor %}",
    "{{ m.content * 2 }}",
    "{{ m.content.strip('ab') }}",
    "{{ '' ~ ('  ' + m.content) | trim }}",
]
CONTENTS = ["a", "b", " b ", "a ", "\n\nlead", "A long text, 12.", "%s 100%", "{{ x }}", "é 漢", "x" * 90, "6", "AB"]
ODD = [
    *("", " ", "<think>\nc\n</think>\n\nd", "<think>x", "think>", "&#34;", "a &lt; b", "\ufdd4", "f <|im_end|>"),
    *("<|im_end", "<|", "ends <", "<x>y", "y<x>", "at 0x1", "<f at 0x1>", "\\ufdd0", "</s>", "\u2028x", "\x00"),
]
WEIGHTS = st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.5])


def talks(contents):
    """Return a strategy of conversations of few shapes."""
    text = st.sampled_from(contents)
    turns = st.lists(
        st.tuples(text, text, WEIGHTS).map(lambda t: [Message("user", t[0]), Message("assistant", t[1], t[2])]),
        min_size=1,
        max_size=3,
    )
    system = st.lists(text.map(lambda t: Message("system", t)), max_size=1)
    last = st.lists(text.map(lambda t: Message("user", t)), max_size=1)
    messages = st.tuples(system, turns, last).map(lambda t: [*t[0], *(m for pair in t[1] for m in pair), *t[2]])
    return messages.map(lambda messages: Conversation(tuple(messages), "rows.jsonl:7", "mine"))


def finder(source, tokenizer, **rules):
    return SpanFinder(ChatTemplate(source, TOKENS, "mine"), tokenizer, DataConfig(**rules))


def outcome(render, conversation):
    try:
        return render(conversation)
    except RenderError as error:
        return str(error)


FINDERS: dict[str, tuple[SpanFinder, SpanFinder]] = {}
"""Finders with and without plans for each source: their caches make the tests fast."""


def assembled_talks(source, tokenizer, conversations):
    """Check that texts with plans are those without, and return the conversations whose texts are assembled."""
    if source not in FINDERS:
        FINDERS[source] = finder(source, tokenizer), finder(source, tokenizer)
        FINDERS[source][1]._planner = None
    planning, rendering = FINDERS[source]
    result = []
    for conversation in conversations:
        plain = [Message(message.role, "Plain.", message.weight) for message in conversation.messages]
        for _ in range(2):  # a plan is made when a shape occurs for the second time
            for one in (planning, rendering):  # both: a text is accepted by a layout that an earlier one has proven
                outcome(one.render, Conversation(tuple(plain), "rows.jsonl:1", "mine"))
        expected = outcome(rendering.render, conversation)
        assert outcome(planning.render, conversation) == expected
        if (assembled := planning._planner.text(conversation)) is not None:
            assert [assembled] == expected
            result.append(conversation)
    return result


LAW = settings(
    max_examples=examples(30),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def sources():
    files = [*sorted(CONFIGS.glob("*.jinja")), *sorted(GOLDEN.glob("*.jinja"))]
    return [pytest.param(file.read_text(encoding="utf-8"), id=file.stem) for file in files]


@pytest.mark.parametrize("source", [*sources(), *(CHATML.replace("BODY", body) for body in [*PLANNED, *READING])])
@LAW
@given(conversations=st.lists(talks([*CONTENTS, *ODD]), min_size=1, max_size=2))
@example(conversations=[talk(f"U:{question}", f"A:{answer}") for question in ODD for answer in ("a", "b ")])
@example(conversations=[talk("U:a", f"A:{answer}") for answer in [*CONTENTS, *ODD]])
def test_an_assembled_text_is_the_rendered_one(tokenizer, source, conversations):
    assembled_talks(source, tokenizer, conversations)


@pytest.mark.parametrize("body", PLANNED)
def test_contents_that_are_only_written_are_assembled(tokenizer, body):
    conversations = [talk(f"U:{text}", f"A:{text}", "U:x", "A:y") for text in CONTENTS]
    assembled = assembled_talks(CHATML.replace("BODY", body), tokenizer, conversations)
    others = [text for text in CONTENTS if "endswith" in body and "b" in text]
    assert len(assembled) == len(CONTENTS) - len(others)


@pytest.mark.parametrize("body", READING)
def test_a_template_that_reads_contents_has_no_plan(tokenizer, body):
    conversations = [talk(f"U:{text}", f"A:{text}") for text in CONTENTS]
    assert not assembled_talks(CHATML.replace("BODY", body), tokenizer, conversations)


@pytest.mark.parametrize("content", ODD)
def test_texts_that_a_check_looks_for_are_rendered(tokenizer, content):
    """Also those that a condition of the template or the check of an edge looks for; harmless ones are assembled."""
    body = "{% if '<x>' in m.content %}!{% endif %}{{ m.content }}"
    harmless = ("&#34;", "a &lt; b", "<|im_end", "<|", "ends <", "\u2028x", "\x00")
    assembled = assembled_talks(CHATML.replace("BODY", body), tokenizer, [talk(f"U:{content}", "A:a")])
    assert bool(assembled) == (content in harmless)


@pytest.mark.parametrize(
    "body", ["{{ m.content }}|im_end|>", "<{{ m.content }}", "{{ m.content }}ink>", "{{ m.content }}{{ m.content }}"]
)
def test_where_a_literal_and_a_content_may_form_a_special_text_there_is_no_plan(tokenizer, body):
    conversations = [talk("U:a <", "A:b <"), talk("U:|im_end|>", "A:think>"), talk("U:a <th", "A:b")]
    assert not assembled_talks(CHATML.replace("BODY", body), tokenizer, conversations)


def test_a_template_without_generation_prompt_or_with_a_rewritten_history_has_no_plan(tokenizer):
    rewritten = CHATML.replace("BODY", "{{ '(old)' if loop.index0 < messages | length - 2 }}{{ m.content }}")
    generated = CHATML.replace("BODY", "{% generation %}{{ m.content }}{% endgeneration %}")
    conversations = [talk(f"U:{text}", f"A:{text}", "U:x", "A:y") for text in CONTENTS]
    for source in (rewritten, generated):
        assert not assembled_talks(source, tokenizer, conversations)


def test_rules_that_exclude_or_add_text_have_no_plans(tokenizer):
    assert finder(CHATML, tokenizer)._planner is not None
    for rules in (
        {"train_on": TrainOn.all},
        {"train_on": TrainOn.contents},
        {"train_on_reasoning": False},
        {"no_loss_patterns": ["x"]},
        {"train_on_tool_results": True},
    ):
        assert finder(CHATML, tokenizer, **rules)._planner is None


def test_texts_that_may_exceed_the_budget_are_rendered(tokenizer, monkeypatch):
    """The template copies each content often enough that the long text is refused and the short one is not."""
    monkeypatch.setattr(budget, "MAX_STEPS", 3000)
    monkeypatch.setattr("sft_cli.chat.template.symbolic_renderer.MAX_STEPS", 3000)
    source = CHATML.replace("BODY", "{% set x = m.content + m.content + m.content %}" * 3 + "{{ m.content }}")
    short, long = talk("U:a", "A:b"), talk("U:a", "A:" + "b" * 40_000)
    assert len(assembled_talks(source, tokenizer, [short, long])) == 1
    assert "takes more than" in outcome(finder(source, tokenizer).render, long)


def test_messages_with_other_keys_and_tools_are_rendered(tokenizer):
    planning = finder(CHATML.replace("BODY", "{{ m.name }}{{ m.content }}"), tokenizer)
    for _ in range(3):
        planning.render(talk("U:a", "A:b"))
    assert planning._planner.text(talk("U:a", "A:b")) is not None
    assert planning._planner.text(talk(Message("user", "a", extra={"name": "n"}), "A:b")) is None
    assert planning._planner.text(talk("U:a", "A:b", tools=({"name": "n"},))) is None


def test_the_special_tokens_of_the_tokenizer_are_known(tokenizer):
    """Vacuity guard: the contents above contain some of them."""
    assert {"<|im_end|>", "</s>"} <= set(SPECIAL) == set(tokenizer.control_tokens)
