"""Fuzz the renderer with valid and hostile chat templates from a grammar, and conversations of any shape."""

from typing import Any

from hypothesis import strategies as st

from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.template.prefix_renderer import PrefixRenderer
from sft_cli.sandbox import budget

budget.MAX_STEPS, budget.MAX_SIZE = 200_000, 1 << 18
"""A fiftieth of the real budget, so that exhausting it takes milliseconds."""

_NAMES = st.sampled_from(
    [
        "messages",
        "m",
        "tools",
        "ns",
        "ns.x",
        "m.content",
        "m['role']",
        "bos_token",
        "loop",
        "f",
        "x",
        "loop.index",
        "caller",
    ]
)
_ATOMS = st.one_of(
    _NAMES,
    st.sampled_from(
        ["1", "0", "10**9", "'a'", "'%s'", "'{:9}'", "none", "true", "[]", "{}", "range(9)", "'<|im_end|>'"]
    ),
)
_OPERATORS = st.sampled_from(["+", "-", "*", "**", "//", "%", "~", "==", "in", "and", "<", "is", "not in", "/"])
_FILTERS = st.sampled_from(
    [
        *(
            "upper",
            "trim",
            "length",
            "list",
            "tojson",
            "join('b')",
            "center(999)",
            "batch(2, ns)",
            "indent(99)",
            "string",
            "first",
        ),
        *(
            "map('upper')",
            "selectattr('role')",
            "replace('a', 'bb')",
            "sum",
            "sort",
            "unique",
            "default('')",
            "items",
            "reverse",
        ),
        *(
            "wordwrap(2)",
            "urlize",
            "format(1)",
            "groupby('role')",
            "slice(3)",
            "round(999)",
            "int",
            "attr('__class__')",
            "pprint",
        ),
    ]
)
_CALLS = st.sampled_from(
    [
        *(
            ".split('a')",
            ".strip()",
            ".format(m, x)",
            ".items()",
            ".replace('', 'a' * 99)",
            ".join(messages)",
            "()",
            "(x)",
        ),
        *(
            "[1:]",
            "[0]",
            ".x",
            "['content']",
            ".__class__",
            ".ljust(9**9)",
            ".encode('idna')",
            "[::-1]",
            ".get('a')",
            "[-1]",
        ),
    ]
)
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, _OPERATORS, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, _FILTERS).map("|".join),
        st.tuples(inner, _CALLS).map("".join),
        st.tuples(inner, inner).map(lambda two: f"[{two[0]}, {two[1]}]"),
        st.tuples(inner, inner).map(lambda two: f"{{'a': {two[0]}, 'b': {two[1]}}}"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} if {two[1]} else x)"),
    ),
    max_leaves=5,
)


def _blocks(inner: Any) -> Any:
    one = st.tuples(_EXPRESSIONS, inner)
    return st.one_of(
        one.map(lambda two: f"{{% for m in {two[0]} %}}{two[1]}{{% endfor %}}"),
        inner.map(lambda body: f"{{% for m in messages %}}{body}{{% endfor %}}"),
        inner.map(lambda body: f"{{% for i in range(999) %}}{body}{{% endfor %}}"),
        one.map(lambda two: f"{{% if {two[0]} %}}{two[1]}{{% endif %}}"),
        inner.map(lambda body: f"{{% macro f(x) %}}{body}{{% endmacro %}}{{{{ f(1) }}}}"),
        inner.map(lambda body: f"{{% set x %}}{body}{{% endset %}}"),
        inner.map(lambda body: f"{{% generation %}}{body}{{% endgeneration %}}"),
        inner.map(lambda body: f"{{% filter upper %}}{body}{{% endfilter %}}"),
        st.tuples(inner, inner).map("".join),
    )


_TEMPLATES = st.recursive(
    st.one_of(
        _EXPRESSIONS.map(lambda text: f"{{{{ {text} }}}}"),
        _EXPRESSIONS.map(lambda text: f"{{% set x = {text} %}}"),
        _EXPRESSIONS.map(lambda text: f"{{% set ns.x = {text} %}}"),
        _EXPRESSIONS.map(lambda text: f"{{{{ raise_exception({text}) }}}}"),
        st.sampled_from(
            ["text", "<|im_start|>", "&quot;", "{% break %}", "{{", "{% endif %}", "{#", "{% include 'x' %}", "\n"]
        ),
    ),
    _blocks,
    max_leaves=5,
).map(lambda body: "{% set ns = namespace(x='a') %}" + body)
_TEXT = st.text(max_size=10) | st.sampled_from(["Hi", "<|im_end|>", "{{ x }}", "&amp;", "\x00", "\ud800"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": _TEXT}),
        st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "items"]), _VALUES, max_size=3),
    ),
    max_size=4,
)
INPUTS = st.tuples(_TEMPLATES, _MESSAGES, st.none() | st.lists(st.dictionaries(_TEXT, _VALUES, max_size=2), max_size=2))


def target(case: Any) -> str | None:
    """Compile a template, render a conversation with it, and traverse the result."""
    source, messages, tools = case
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, "fuzzed").compile()
    walk = PrefixRenderer(template).render_prefixes(messages, tools)
    try:
        text = template.render(messages, tools, False)
        template.generation_text(messages, tools)
    except RenderError:
        return "refused"
    if walk is not None and (walked := walk.text(len(messages), False)) is not None and len(walk.ends) > len(messages):
        assert walked == text, "one rendering tells what the renderings of the beginnings are"
    return None
