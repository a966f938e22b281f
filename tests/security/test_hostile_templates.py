"""Hostile templates and expressions: each is refused within seconds and with little memory."""

import time

import pytest

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.message_access import MessageAccessLog, TracedMessages
from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.data.row_errors import RowError
from sft_cli.errors import SftError
from sft_cli.sandbox.budget import RenderBudget
from sft_cli.types import Row

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
SIZE, STEPS = "more than 16,777,216 characters", "takes more than 10,000,000 steps"
EITHER = f"{SIZE}|{STEPS}"
DOUBLED = "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = BODY %}{% endfor %}{{ ns.x }}"
FILTERED, METHOD = "{{ ('a'*1000000)|BODY }}", "{{ ('a'*1000000).BODY }}"

TEMPLATES = [
    ("{{ 'a' * 10 ** 9 }}", SIZE),
    ("{{ [0] * 10 ** 9 }}", SIZE),
    ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
    ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", STEPS),
    (
        "{% for i in range(99999) if i %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        STEPS,
    ),
    ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", STEPS),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{% for i in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}", "RecursionError"),
    ("{% macro m() %}{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}{% endmacro %}{{ m() }}", STEPS),
    (DOUBLED.replace("BODY", "ns.x + ns.x"), EITHER),
    (DOUBLED.replace("BODY", "ns.x ~ ns.x"), EITHER),
    (DOUBLED.replace("BODY", "[ns.x, ns.x]"), EITHER),
    (DOUBLED.replace("BODY", "(ns.x, ns.x)"), EITHER),
    (DOUBLED.replace("BODY", "{'a': ns.x, 'b': ns.x}"), EITHER),
    (DOUBLED.replace("BODY", "dict(a=ns.x, b=ns.x)"), EITHER),
    (DOUBLED.replace("BODY", "ns.x|batch(2, ns.x)|list"), EITHER),
    (DOUBLED.replace("BODY", "ns.x|list * 2"), EITHER),
    (FILTERED.replace("BODY", "center(10 ** 9)"), "the number 1000000000 to center"),
    (FILTERED.replace("BODY", "indent(10 ** 9, true)"), "the number 1000000000 to indent"),
    (FILTERED.replace("BODY", "replace('a', 'b' * 1000000)"), SIZE),
    (FILTERED.replace("BODY", "list|join('b' * 1000)"), SIZE),
    (FILTERED.replace("BODY", "urlize"), "passes 1,000,000 characters to urlize"),
    (FILTERED.replace("BODY", "wordwrap(1)"), "passes 1,000,000 characters to wordwrap"),
    (FILTERED.replace("BODY", "tojson(indent=10 ** 9)"), "the number 1000000000 to tojson"),
    ("{{ [1]|batch(10 ** 9, 'x')|list }}", "the number 1000000000 to batch"),
    ("{{ [1]|slice(10 ** 9)|list }}", "the number 1000000000 to slice"),
    ("{{ 1.5|round(10 ** 9, 'ceil') }}", "the number 1000000000 to round"),
    ("{{ (range(99999)|batch(1)|list)|sum(start=[]) }}", "adds up lists"),
    ("{{ '%1000000000d' % 1 }}", "a width of more than four digits"),
    ("{{ '%*d' % (10 ** 9, 1) }}", "a width of more than four digits"),
    ("{{ '%1000000000d'|format(1) }}", "a width of more than four digits"),
    ("{{ '{:1000000000}'.format(1) }}", "a width of more than four digits"),
    ("{{ '{:{w}}'.format(1, w=10 ** 9) }}", "formats with the width"),
    ("{{ '{a:{w}}'.format_map({'a': 1, 'w': 10 ** 9}) }}", "formats with the width"),
    ("{{ 2 ** 99999 }}", "a number of more than 8,192 bits"),
    ("{{ (2 ** 8000) * (2 ** 8000) }}", "a number of more than 8,192 bits"),
    (METHOD.replace("BODY", "ljust(10 ** 9)"), "the number 1000000000 to ljust"),
    (METHOD.replace("BODY", "zfill(10 ** 9)"), "the number 1000000000 to zfill"),
    (METHOD.replace("BODY", "replace('', 'b' * 99999)"), SIZE),
    (METHOD.replace("BODY", "join(range(99999)|map('string'))"), SIZE),
    (METHOD.replace("BODY", "translate({97: 'b' * 99999})"), SIZE),
    (METHOD.replace("BODY", "encode('punycode')"), "encodes in 'punycode'"),
    (METHOD.replace("BODY", "rfind('b' + 'a' * 500000)"), "searches with rfind for more than 1,000"),
    (METHOD.replace("BODY", "expandtabs(10 ** 9)"), "the number 1000000000 to expandtabs"),
    ("{{ (1).to_bytes(10 ** 9, 'big') }}", "the number 1000000000 to to_bytes"),
    ("{{ {}.fromkeys(range(99999), 'a' * 99999) }}", SIZE),
    ("{% for i in range(99999) %}{% if 'z' in 'a' * 160000 %}{% endif %}{% endfor %}", STEPS),
    ("{{ lipsum(n=10 ** 6) }}", "'lipsum' is undefined"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ cycler.__init__.__globals__ }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "cannot be compiled"),
    ("{{ 1" + " - 1" * 20_000 + " }}", "cannot be compiled"),
    ("{% if 1 %}" * 200 + "{% endif %}" * 200, "cannot be compiled"),
    ("x" * 1_000_001, "1,000,001 characters, more than 1,000,000"),
]


@pytest.mark.parametrize(("source", "problem"), TEMPLATES, ids=[f"{number}" for number in range(len(TEMPLATES))])
def test_hostile_template_is_refused(source, problem):
    """Every attack ends within ten seconds of processor time."""
    began = time.process_time()
    with pytest.raises((RenderError, SftError), match=problem):
        ChatTemplate(source, {}, "mine").compile().render(MESSAGES, None, False)
    assert time.process_time() - began < 10


EXPRESSIONS = [
    "{{ prompt * 10 ** 9 }}",
    "{{ [prompt] * 10 ** 9 }}",
    "{% for i in range(99999) %}{{ prompt * 999 }}{% endfor %}",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_hostile_expression_of_a_recipe_is_a_bad_row(text):
    config = SourceConfig(path="x.jsonl", format={"prompt": text, "completion": "{{ completion }}"})
    row = Row({"prompt": "Hi", "completion": "Yo"}, "x.jsonl:1", "a")
    with pytest.raises(RowError, match="more than"):
        make_converter(config, "a", "\n", row.values).convert(row)


def test_each_rendering_has_its_own_budget():
    """A template that uses a fifth of the budget can be rendered many times."""
    template = ChatTemplate("{% for i in range(9999) %}{% for j in range(20) %}{% endfor %}{% endfor %}x", {}, "mine")
    assert [template.render(MESSAGES, None, False) for _ in range(12)] == ["x"] * 12


def test_sandbox_keeps_the_results_of_templates():
    """Loops, filters, methods, comparisons, slices and namespaces give the same results as plain Jinja."""
    source = (
        "{% set ns = namespace(n=0, last='') %}"
        "{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.content ~ ns.n %}{% endfor %}"
        "{{ ns.n }}{{ ns.last }}{{ messages|map(attribute='role')|join(',') }}{{ 'a' in ['a', 'b'] }}"
        "{{ messages[0].content.split('i') }}{{ [1, 2][1:] }}{{ '%s-%02d' % ('a', 3) }}{{ '{:>4}'.format('x') }}"
        "{{ {'a': 1}|tojson }}{{ (messages|selectattr('role', 'equalto', 'user')|list|length) * 2 }}{{ none }}{{ 1.5 }}"
    )
    rendered = ChatTemplate(source, {}, "mine").compile().render(MESSAGES, None, False)
    assert rendered == "2Hi2user,assistantTrue['H', ''][2]a-03   x{\"a\": 1}2None1.5"


def test_traced_messages_have_the_size_of_their_text():
    """A rendering that records the messages it reads counts as much as one that does not."""
    budget, messages = RenderBudget(), [{"role": "user", "content": "x" * 1000}] * 3
    assert budget.size(TracedMessages(messages, 1, MessageAccessLog(3))) == RenderBudget().size(messages[1:])
