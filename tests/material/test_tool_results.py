"""Tool results of real rows with real tokenizers and templates: their trained parts, and refused rows."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from test_masks import MATERIAL

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig, SourceConfig
from sft_cli.data.formats.row_converter import make_converter
from sft_cli.types import Row

pytestmark = [pytest.mark.material, pytest.mark.slow]

UNLIKE = "the template does not write the tool results unchanged and in order"
BRACKETS = """
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {{- ' ' + m.content -}}
        {%- for c in m.tool_calls or [] -%}{{- c.function.name ~ ' ' ~ c.function.arguments | tojson -}}{%- endfor -%}
        {{- eos_token -}}
    {%- else -%}
        {{- bos_token if loop.first else '' -}}
        {{- '[TOOLS] ' ~ (tools | tojson) ~ ' [/TOOLS]' if loop.first and tools else '' -}}
        {{- ('[TOOL] ' if m.role == 'tool' else '[INST] ') + m.content + ' [/INST]' -}}
    {%- endif -%}
{%- endfor -%}
"""
TABLE = [
    ("qwen2_5", "trl/qwen2_5", 300, 211),
    ("qwen3", "trl/qwen3", 300, 211),
    ("llama3", "trl/llama3_1", 147, 0),  # it writes a result as text in JSON, and all of these contain quotes
    ("mistral_v3", "llamacpp/mistralai-Mistral-Nemo-Instruct-2407", 300, 211),
    ("llama2", BRACKETS, 300, 211),
    ("llama3", BRACKETS, 300, 211),
]
NAMES = ["qwen2_5", "qwen3", "llama3", "mistral_v3", "llama2 by hand", "llama3 by hand"]


def conversations():
    """Return Glaive's tool calls, a ShareGPT file with `observation` turns."""
    rows = json.loads((MATERIAL / "data/sharegpt/glaive_toolcall_en_demo.json").read_text(encoding="utf-8"))
    make = make_converter(SourceConfig(), "glaive", "\n\n", rows[0])
    return [one for number, row in enumerate(rows, 1) for one in make.convert(Row(row, f"glaive:{number}", "glaive"))]


def added(before, after):
    """Return the ranges of ids that have loss only with the rule."""
    more = [a != b for a, b in zip(before, after, strict=True)]
    edges = [i for i, (a, b) in enumerate(pairwise([False, *more, False])) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def between(tokenizer, ids, start, end):
    """Return the text that ids from ``start`` to ``end`` add to the text before them."""
    before, whole = tokenizer.decode_batch([ids[:start], ids[:end]])
    return whole[len(before) :]


@pytest.mark.parametrize(("name", "template", "proven", "results"), TABLE, ids=NAMES)
def test_tool_results_of_real_rows(name, template, proven, results, material_dir):
    """Every result trains once and the ids are unchanged; one more token at either end would include template text."""
    tokenizer = load_tokenizer(str(material_dir / "tokenizers" / name))
    source = template
    if "{" not in template:
        source = (material_dir / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
    laid_out = ChatTemplate(source, tokenizer.special_tokens, "own")
    talks = conversations()
    plain = ExampleBuilder(tokenizer, laid_out, DataConfig(), 100_000).build(talks)
    more = ExampleBuilder(tokenizer, laid_out, DataConfig(train_on_tool_results=True), 100_000).build(talks)
    fates = Counter(outcome.problem is None or UNLIKE in outcome.problem.problem for outcome in more)
    assert fates == {True: 300}
    assert sum(outcome.problem is None for outcome in more) == proven
    checked = 0
    for talk, before, after in zip(talks, plain, more, strict=True):
        given = [message.content for message in talk.messages if message.role == "tool"]
        if after.problem is not None:
            assert any('"' in result for result in given)
            continue
        found = []
        for old, new in zip(before.examples, after.examples, strict=True):
            assert new.input_ids == old.input_ids
            assert all(b == 1.0 for a, b in zip(old.weights, new.weights, strict=True) if a)
            found += [(new.input_ids, start, end) for start, end in added(old.weights, new.weights)]
        for (ids, start, end), result in zip(found, given, strict=True):
            text = between(tokenizer, ids, start, end)
            at = result.index(text)
            assert at <= 2
            assert len(result) - at - len(text) <= 8
            assert between(tokenizer, ids, start - 1, end) not in result
            assert between(tokenizer, ids, start, end + 1) not in result
            checked += 1
    assert checked == results
