"""Templates that drop, repeat or move parts of a conversation are rejected, even if the text occurs elsewhere.

Each mutation is tested on one style of template; the slow tests apply it to all.
"""

import json
import re

import pytest
from tokenizers import AddedToken

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate, RenderError
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from tests.chat.coverage_templates import CONTROL, STOPS, STYLES, source, talks
from tests.chat.helpers import letters, trained

TRAINED = {
    "chatml": [
        "<think>\nTwo things, two calls.\n</think>\n\nI look both up."
        '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2, "exact": true,'
        ' "unit": {"of": "celsius"}}}\n</tool_call>'
        '\n<tool_call>\n{"name": "clock", "arguments": {"city": "Oslo", "days": 7, "exact": false,'
        ' "unit": {"of": "hours"}}}\n</tool_call><|im_end|>',
        "<think>\nBoth came back.\n</think>\n\nClear skies, midday.<|im_end|>",
        "Gladly.<|im_end|>",
    ],
    "llama": [
        "<thought>Two things, two calls.</thought>I look both up."
        '; {"name": "weather", "parameters": {"city": "Rome", "days": 2, "exact": true, "unit": {"of": "celsius"}}}'
        '; {"name": "clock", "parameters": {"city": "Oslo", "days": 7, "exact": false, "unit": {"of": "hours"}}}'
        "<|eot|>",
        "<thought>Both came back.</thought>Clear skies, midday.<|eot|>",
        "Gladly.<|eot|>",
    ],
    "mistral": [
        "[THINK]Two things, two calls.[/THINK]I look both up."
        '[TOOL_CALLS]weather[ARGS]{"city": "Rome", "days": 2, "exact": true, "unit": {"of": "celsius"}}'
        '[TOOL_CALLS]clock[ARGS]{"city": "Oslo", "days": 7, "exact": false, "unit": {"of": "hours"}}</s>',
        "[THINK]Both came back.[/THINK]Clear skies, midday.</s>",
        "Gladly.</s>",
    ],
    "gemma": [
        "<think>Two things, two calls.</think>I look both up."
        '<call>weather(city="Rome", days=2, exact=true, unit={"of": "celsius"})</call>'
        '<call>clock(city="Oslo", days=7, exact=false, unit={"of": "hours"})</call><end_of_turn>',
        "<think>Both came back.</think>Clear skies, midday.<end_of_turn>",
        "Gladly.<end_of_turn>",
    ],
}
NEIGHBOUR = (
    "(messages[loop.index0 + 1] if not loop.last and messages[loop.index0 + 1].role == 'tool' else"
    " messages[loop.index0 - 1] if messages[loop.index0 - 1].role == 'tool' else m).content"
)
"""Expression in a tool message: the content of the other of two tool messages."""
BEFORE = "messages[loop.index0 - 1].content"
MUTATIONS = {
    "system dropped": lambda s: {"system": s["system"].replace("m.content", "''")},
    "system doubled": lambda s: {"system": s["system"].replace("m.content", "m.content ~ m.content")},
    "system shown as two turns": lambda s: {"system": s["system"] * 2},
    "system cut": lambda s: {"system": s["system"].replace("m.content", "m.content[:-1]")},
    "system in the answer": lambda s: {
        "system": s["system"].replace("m.content", "''"),
        "content": "{{- messages[0].content -}}" + s["content"],
    },
    "system in the answer too": lambda s: {"content": s["content"] + "{{- messages[0].content -}}"},
    "user dropped": lambda s: {"user": s["user"].replace("m.content", "''")},
    "user's turn dropped": lambda s: {"user": ""},
    "user doubled": lambda s: {"user": s["user"] * 2},
    "first user dropped": lambda s: {"user": "{%- if loop.index0 > 1 -%}" + s["user"] + "{%- endif -%}"},
    "user cut": lambda s: {"user": s["user"].replace("m.content", "m.content[1:]")},
    "user after the answer": lambda s: {
        "user": s["user"].replace("m.content", "''"),
        "stop": s["stop"] + "{{- " + BEFORE + " -}}",
    },
    "user in the answer": lambda s: {"content": "{{- " + BEFORE + " -}}" + s["content"]},
    "user's text in every answer": lambda s: {"content": s["content"] + "{{- messages[1].content -}}"},
    "result dropped": lambda s: {"result": s["result"].replace("<<body>>", "''")},
    "result's turn dropped": lambda s: {"result": ""},
    "result doubled": lambda s: {"result": s["result"] * 2},
    "second result dropped": lambda s: {
        "result": "{%- if messages[loop.index0 - 1].role != 'tool' -%}" + s["result"] + "{%- endif -%}"
    },
    "results exchanged": lambda s: {"result": s["result"].replace("<<body>>", NEIGHBOUR)},
    "result in the answer": lambda s: {"content": "{{- messages[3].content if loop.index0 == 5 -}}" + s["content"]},
    "tools dropped": lambda s: {"shown tools": "[]"},
    "one tool of two": lambda s: {"shown tools": "tools[:1]"},
    "tools doubled": lambda s: {"shown tools": "(tools + tools)"},
    "tools in the answer": lambda s: {"shown tools": "[]", "content": "{{- tools | tojson -}}" + s["content"]},
    "content dropped": lambda s: {"content": ""},
    "content doubled": lambda s: {"content": s["content"] * 2},
    "content cut": lambda s: {"content": s["content"].replace("<<body>>", "m.content[:-1]")},
    "content before its turn": lambda s: {"turn": "{{- m.content -}}" + s["turn"], "content": "", "header": s["turn"]},
    "content after the stop": lambda s: {"content": "", "stop": s["stop"] + s["content"]},
    "content in upper case": lambda s: {"content": s["content"].replace("<<body>>", "m.content | upper")},
    "another answer's content": lambda s: {
        "content": s["content"].replace("<<body>>", "(messages | last).content"),
        "header": s["turn"],
    },
    "earlier content dropped": lambda s: {
        "content": s["content"].replace("<<body>>", "(m.content if loop.index0 + 2 > messages | length else '')")
    },
    "second call dropped": lambda s: {"called": "(m.tool_calls or [])[:1]"},
    "first call dropped": lambda s: {"called": "(m.tool_calls or [])[1:]"},
    "calls dropped": lambda s: {"calls": ""},
    "calls doubled": lambda s: {"called": "(m.tool_calls or []) + (m.tool_calls or [])"},
    "first call again": lambda s: {"called": "(m.tool_calls or []) + (m.tool_calls or [])[:1]"},
    "first call twice": lambda s: {"called": "(m.tool_calls or [])[:1] + (m.tool_calls or [])[:1]"},
    "calls in reverse": lambda s: {"called": "(m.tool_calls or []) | reverse"},
    "calls after the stop": lambda s: {"calls": "", "stop": s["stop"] + s["calls"]},
    "calls in the next answer": lambda s: {
        "calls": s["calls"].replace("<<called>>", "(messages[2].tool_calls if loop.index0 == 5 else [])")
    },
    "name dropped": lambda s: {"name": "''"},
    "second name dropped": lambda s: {"name": "(c.function.name if loop.first else '')"},
    "first name doubled": lambda s: {"name": "(c.function.name ~ (' ' ~ c.function.name if loop.first else ''))"},
    "names exchanged": lambda s: {"name": "m.tool_calls[1 - loop.index0].function.name"},
    "one name for both": lambda s: {"name": "m.tool_calls[0].function.name"},
    "arguments dropped": lambda s: {"arguments": "{{- '{}' -}}"},
    "arguments exchanged": lambda s: {"items": "m.tool_calls[1 - loop.index0].function.arguments.items()"},
    "arguments of the first for both": lambda s: {"items": "m.tool_calls[0].function.arguments.items()"},
    "string value dropped": lambda s: {"items": "(c.function.arguments.items() | rejectattr(1, 'string'))"},
    "number value dropped": lambda s: {"items": "(c.function.arguments.items() | rejectattr(1, 'integer'))"},
    "bool value dropped": lambda s: {"items": "(c.function.arguments.items() | rejectattr(1, 'boolean'))"},
    "nested value dropped": lambda s: {"items": "(c.function.arguments.items() | rejectattr(1, 'mapping'))"},
    "nested value emptied": lambda s: {"value": "('{}' if v is mapping else v | tojson)"},
    "string value emptied": lambda s: {"value": "('\"\"' if v is string else v | tojson)"},
    "number value zeroed": lambda s: {"value": "('0' if v is integer else v | tojson)"},
    "bool value turned": lambda s: {"value": "((not v if v is boolean else v) | tojson)"},
    "items doubled": lambda s: {"items": "(c.function.arguments.items() | list + c.function.arguments.items() | list)"},
    "string value doubled": lambda s: {"value": "(v | tojson ~ (', ' ~ v | tojson if v is string else ''))"},
    "number value doubled": lambda s: {"value": "(v | tojson ~ (', ' ~ v | tojson if v is integer else ''))"},
    "bool value doubled": lambda s: {"value": "(v | tojson ~ (', ' ~ v | tojson if v is boolean else ''))"},
    "values at each other's keys": lambda s: {
        "value": "(c.function.arguments.values() | list)[-1 - loop.index0] | tojson"
    },
    "reasoning dropped": lambda s: {"reasoning": ""},
    "reasoning doubled": lambda s: {"reasoning": s["reasoning"] * 2},
    "reasoning after the content": lambda s: {"reasoning": "", "content": s["content"] + s["reasoning"]},
    "reasoning after the stop": lambda s: {"reasoning": "", "stop": s["stop"] + s["reasoning"]},
    "reasoning before its turn": lambda s: {"turn": s["reasoning"] + s["turn"], "reasoning": "", "header": s["turn"]},
    "reasoning in the next answer": lambda s: {
        "reasoning": s["reasoning"].replace("m.rea", "messages[2].rea").replace("m.think", "messages[2].think")
    },
    "stop dropped": lambda s: {"stop": ""},
    "stop before the content": lambda s: {"reasoning": s["reasoning"] + s["stop"], "stop": ""},
    "stop before the calls": lambda s: {"content": s["content"] + s["stop"], "stop": ""},
    "header at every end": lambda s: {"whole": s["whole"].replace("if add_generation_prompt", "if true"), "stop": ""},
    "header as the stop": lambda s: {"whole": s["whole"] + "<<turn>>", "stop": ""},
}
UNCHANGED = {("mistral", "header as the stop"), ("mistral", "reasoning before its turn")}
"""Mutations without effect: Mistral's turns have no header."""


def tagged(text):
    """Return a text with its reasoning between tags."""
    return re.sub(r"(?:<th\w+>|\[THINK\])\s*(.*?)\s*(?:</th\w+>|\[/THINK\])\s*", "<think>\n\\1\n</think>\n\n", text)


def rendered(template, conversation):
    """Render a conversation with each name of the reasoning key; None where rendering fails."""
    messages = [{"role": m.role, "content": m.content, **m.extra} for m in conversation.messages]
    for message in messages:
        if reasoning := message.pop("reasoning_content", None):
            message.update(reasoning_content=reasoning, reasoning=reasoning, thinking=reasoning)
    try:
        return template.render(messages, list(conversation.tools), prompt=False)
    except RenderError:
        return None


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Return a tokenizer with one token per byte and the control tokens of all templates."""
    directory = tmp_path_factory.mktemp("tokenizer")
    backend = letters()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    backend.save(str(directory / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    return load_tokenizer(str(directory))


@pytest.fixture
def proof(tokenizer):
    """Return a function from source and conversations to the template, the errors and the trained text."""

    def proof(text, conversations):
        template = ChatTemplate(text, tokenizer.special_tokens, "mine").compile()
        make_builder = ExampleBuilder(tokenizer, template, DataConfig(), 10_000)
        outcomes = make_builder.build(conversations)
        problems = [outcome.problem for outcome in outcomes]
        if None in problems:  # preparation checks this first; in this test the error of a row is enough
            try:
                make_builder.template_check.check()
            except SftError as error:
                problems = [error] * len(problems)
        return template, problems, ["|".join(trained(tokenizer, outcome)) for outcome in outcomes]

    return proof


@pytest.mark.parametrize("style", STYLES)
def test_the_templates_are_proven(style, proof):
    _, problems, texts = proof(source(STYLES[style]), list(talks().values()))
    assert problems == [None, None]
    assert texts[0] == "|".join(TRAINED[style])
    assert [text.count(STOPS[style]) for text in texts] == [3, 3]


@pytest.mark.parametrize(
    ("style", "mutation"),
    [
        pytest.param(style, mutation, marks=[pytest.mark.slow] if (i + j) % len(STYLES) else [])
        for i, mutation in enumerate(MUTATIONS)
        for j, style in enumerate(STYLES)
    ],
)
def test_a_mutation_is_rejected(style, mutation, proof):
    slots = STYLES[style]
    changed = source({**slots, **MUTATIONS[mutation](slots)})
    if changed == source(slots):
        assert (style, mutation) in UNCHANGED
        return
    template, problems, texts = proof(changed, list(talks().values()))
    whole = ChatTemplate(source(slots), template.special_tokens, "mine")
    for name, problem, text in zip(talks(), problems, texts, strict=True):
        assert rendered(template, talks()[name]) != rendered(whole, talks()[name]), "the mutation changes nothing"
        if mutation.startswith("reasoning") and problem is None:
            # Between tags in the content it is shown once, even if the template ignores the key.
            assert name != "distinct" or text == tagged("|".join(TRAINED[style]))
        else:
            assert problem is not None, f"{name}: {text}"
