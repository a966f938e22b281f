"""One rendering replaces many: its texts equal the plain renderings for every template."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sft_cli.chat.masks.sentinels import MESSAGE_BOUNDARY
from sft_cli.chat.masks.spans import SpanFinder
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.prefix_renderer import PrefixRenderer
from sft_cli.config.schema.data import DataConfig, TrainOn
from sft_cli.types import Conversation, Message
from tests.chat.helpers import SPECIAL, talk
from tests.lanes import examples

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "template"
OWN = Path(__file__).resolve().parents[1] / "golden" / "masks" / "templates"
MATERIAL = Path(__file__).resolve().parents[3] / "shared" / "material"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}
CONTENTS = st.sampled_from(["", "a", " b ", "<think>\nc\n</think>\n\nd", "e\n", "&#34;", "\ufdd4", "f <|im_end|>", "é"])
MESSAGES = st.one_of(
    st.builds(
        lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), CONTENTS
    ),
    st.builds(lambda content: {"role": "tool", "content": content, "tool_call_id": "abcdefghi"}, CONTENTS),
    st.builds(lambda content: {"role": "assistant", "content": content, "tool_calls": [CALL]}, CONTENTS),
)
EXCHANGES = st.lists(
    st.tuples(CONTENTS, CONTENTS).map(
        lambda texts: [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    ),
    min_size=1,
    max_size=4,
).map(lambda pairs: [message for pair in pairs for message in pair])
SYSTEM = st.lists(CONTENTS.map(lambda content: {"role": "system", "content": content}), max_size=1)
TALKS = st.builds(lambda system, rest: [*system, *rest], SYSTEM, EXCHANGES | st.lists(MESSAGES, min_size=1, max_size=7))
LAW = settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOOP = "{% for m in messages %}BODY{% endfor %}{{ 'A:' if add_generation_prompt }}"
PEEKS = [
    LOOP.replace("BODY", body)
    for body in (
        "{{ m.content }}",
        "{{ m.content }}{{ ',' if not loop.last }}",
        "{{ m.content }}{{ loop.nextitem.role if m.role == 'user' }}",
        "{{ loop.length if m.role == 'tool' }}{{ m.content }}",
        "{{ loop.index }}{{ loop.previtem.role }}{{ m.content }}",
        "{{ m.content }}{{ messages[loop.index0 + 1].role if m.role == 'tool' }}",
        "{{ m.content }}{{ messages[loop.index0 + 2] is defined }}",
        "{{ m.content }}{{ messages[-1].role if m.role == 'tool' }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.id }}{{ ';' if not loop.last }}{% endfor %}",
        "{{ m.content }}{% if loop.first %}{{ messages | length }}{% endif %}",
        "{{ m.content if m.role != 'tool' else (messages | map(attribute='role') | join) }}",
        "{{ m.content }}{{ messages[loop.index0:] | length }}",
        "{% if loop.last %}{{ m.content }}{% elif m.role == 'tool' %}{{ loop.revindex }}{% endif %}",
        "{{ m.content }}{{ loop.cycle('x', 'y') }}",
        "{% if m.role == 'tool' %}{% continue %}{% endif %}{{ m.content }}",
        "{% set ns = namespace(x=loop.last) %}{{ ns.x }}{{ m.content }}",
        "{{ m.content }}{{ messages == [] }}{{ messages | string | length if m.role == 'tool' }}",
    )
] + [
    "{% set n = namespace(k=0) %}" + LOOP.replace("BODY", "{{ m.content }}{% set n.k = n.k + 1 %}") + "{{ n.k }}",
    "{% set messages = messages[1:] %}" + LOOP.replace("BODY", "{{ m.content }}"),
    "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% else %}"
    "{% set loop_messages = messages %}{% endif %}" + LOOP.replace("in messages", "in loop_messages"),
    LOOP.replace("in messages", "in messages[1:]"),
    LOOP.replace("in messages", "in messages | list"),
    LOOP.replace("in messages", "in messages if m.role != 'tool'"),
    LOOP.replace("{% for", "{{ 'g' if add_generation_prompt }}{% for"),
    LOOP + "{{ messages[-1].role }}",
    LOOP + "{{ 'tools' if tools }}",
    "{% for m in messages %}{{ m.role[0] }}{% endfor %}" + LOOP.replace("BODY", "{{ m.content }}"),
    "{% if messages %}x{% endif %}{{ messages[3].role }}" + LOOP.replace("BODY", "{{ m.content }}"),
    "{% macro say(m) %}{{ m.content }}{{ messages[2].role }}{% endmacro %}" + LOOP.replace("BODY", "{{ say(m) }}"),
    "{% macro say(l) %}{{ l.last }}{% endmacro %}" + LOOP.replace("BODY", "{{ m.content }}{{ say(loop) }}"),
]  # fmt: skip


def count_known_texts(source, messages, tools):
    """Check that every known text equals its plain rendering, and return the number of known texts."""
    if MESSAGE_BOUNDARY in json.dumps(messages, ensure_ascii=False):
        return 0  # rejected earlier, like all reserved characters
    template = ChatTemplate(source, TOKENS, "mine")
    walk = PrefixRenderer(template).render_prefixes(messages, tools)
    known = 0
    for count in range(len(messages) + 1) if walk else ():
        for prompt in (False, True):
            text = walk.text(count, prompt)
            if text is not None:
                known += 1
                assert text == template.render(messages[:count], tools, prompt=prompt)
    return known


def sources():
    files = [*sorted(CONFIGS.glob("*.jinja")), *sorted(OWN.glob("*.jinja"))]
    return [pytest.param(file.read_text(encoding="utf-8"), id=file.stem) for file in files]


@pytest.mark.parametrize("source", [*sources(), *PEEKS])
@LAW
@given(messages=TALKS, tools=st.sampled_from([None, [TOOL]]))
@example(
    messages=[{"role": role, "content": "x"} for role in ("user", "assistant", "tool", "assistant", "user")], tools=None
)
def test_prefix_texts_equal_plain_renderings(source, messages, tools):
    count_known_texts(source, messages, tools)


@pytest.mark.material
@pytest.mark.slow
@LAW
@given(messages=TALKS, tools=st.sampled_from([None, [TOOL]]))
def test_prefix_texts_of_every_real_template(material_dir, messages, tools):
    files = sorted((material_dir / "templates").rglob("*.jinja")) + sorted(material_dir.rglob("chat_template.jinja"))
    known = [count_known_texts(file.read_text(encoding="utf-8"), messages, tools) for file in files]
    assert len(known) > 60


def messages_of(conversation):
    return [{"role": message.role, "content": message.content} for message in conversation.messages]


@pytest.mark.parametrize(
    ("source", "known"),
    [
        (PEEKS[0], 8),
        (PEEKS[1], 2),
        (PEEKS[2], 0),
        (PEEKS[8], 8),
        (PEEKS[9], 2),
        (PEEKS[17], 0),
        (PEEKS[18], 6),
        (PEEKS[22], 0),
        (PEEKS[23], 0),
    ],
)
def test_number_of_known_prefixes(source, known):
    """Four messages, each with and without a generation prompt; if any text is known, the whole is."""
    assert count_known_texts(source, messages_of(talk("U:a", "A:b", "U:c", "A:d")), None) == known


class SeparateRenderer(PrefixRenderer):
    """Renderer that renders every text separately: the reference."""

    def walk(self, messages, tools):
        return None


def outcome(renderer, conversation):
    """Return the texts of a renderer for a conversation, or its error."""
    try:
        return renderer.render(conversation)
    except RenderError as refusal:
        return str(refusal)


def compare(source, tokenizer, conversation, rules):
    """Check that the spans are the same with one rendering and with many."""
    template = ChatTemplate(source, tokenizer.special_tokens, "mine")
    walking, plain = SpanFinder(template, tokenizer, rules), SpanFinder(template, tokenizer, rules)
    plain._prefix_renderer = SeparateRenderer(template)
    assert outcome(walking, conversation) == outcome(plain, conversation)


RULES = [
    DataConfig(),
    DataConfig(train_on=TrainOn.last),
    DataConfig(train_on=TrainOn.all),
    DataConfig(train_on_reasoning=False, no_loss_patterns=["a", "<.*?>"]),
    DataConfig(sanitize=False, train_on_tool_calls=False),
    DataConfig(train_on_tool_results=True),
]


def conversation_of(messages, tools):
    turns = [Message(m.pop("role"), m.pop("content"), extra=m) for m in map(dict, messages)]
    return Conversation(tuple(turns), "rows.jsonl:7", "mine", tools)


@pytest.mark.parametrize("source", sources())
@LAW
@given(messages=TALKS, tools=st.sampled_from([None, (TOOL,)]), rules=st.sampled_from(RULES))
def test_spans_and_errors_equal_those_of_plain_renderings(tokenizer, source, messages, tools, rules):
    compare(source, tokenizer, conversation_of(messages, tools), rules)


@pytest.mark.material
@LAW
@given(messages=TALKS, tools=st.sampled_from([None, (TOOL,)]), rules=st.sampled_from(RULES), number=st.integers(0, 999))
def test_spans_on_every_real_template(material_dir, build_tokenizer, messages, tools, rules, number):
    files = sorted((material_dir / "templates").rglob("*.jinja")) + sorted(material_dir.rglob("chat_template.jinja"))
    source = files[number % len(files)].read_text(encoding="utf-8")
    special = sorted({*re.findall(r"<\|[\w:-]+\|?>|<[\w]+\|>|<｜[^｜ ]+｜>|\[/?[A-Z_]+\]", source), *SPECIAL})
    compare(source, build_tokenizer(special=special), conversation_of(messages, tools), rules)


def test_an_error_of_a_later_message_is_reported_there(make_builder):
    """The third message is rejected; the error names it, not the first answer, and shared prefixes do not hide it."""
    source = LOOP.replace("BODY", "{{ raise_exception('three') if loop.index == 3 }}{{ m.content + eos_token }}")
    template = ChatTemplate(source, TOKENS, "mine")
    messages = messages_of(talk("U:a", "A:b", "U:c", "A:d"))
    assert PrefixRenderer(template).render_prefixes(messages, None) is None
    with pytest.raises(RenderError, match="three"):
        template.render(messages, None, prompt=False)
