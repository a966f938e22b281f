"""Published templates with every kind of conversation: right or refused, and equal to the committed table.

The oracle (tests/oracle.py) shares no code with the proof. After an intended change run ``python
tests/material/wild_table.py`` and read the diff of tests/golden/wild.tsv.
"""

from collections import Counter
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import NOW, Server, faults
from talks import conversations as random_conversations
from talks import is_ambiguous
from wild_table import MATERIAL, TABLE, judged, refusal, templates, tokenizers

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig

pytestmark = pytest.mark.material
TOKENIZERS = ("llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3")
EVERY = 9
"""Each run checks every ninth template; the slow tests check all."""
SAMPLE = (
    *("wild/ax_chatml", "wild/ax_gemma3", "wild/lc_GigaChat3-10B-A1.8B", "wild/lc_ibm-granite-granite-4.1"),
    *("wild/lc_mistralai-Ministral-3-14B-Reasoning-2512", "wild/un_gemma-4", "wild/vl_tool_chat_template_hermes"),
    *(
        "wild/vl_tool_chat_template_llama3.2_pythonic",
        "wild/lc_muse-glimmer",
        "trl/qwen3",
        "trl/gptoss",
        "trl/llama3_1",
    ),
)


def committed():
    """Return (template, conversation) -> verdict and reason from the committed table."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return {(name, title): (verdict, *reason) for name, title, verdict, *reason in rows}


def compared(chosen, merges=None):
    """Check templates and compare with the table."""
    known, found = committed(), {}
    for name, source, tokens in chosen:
        judgements = judged(name, source, tokens, **({"merges": merges} if merges else {}))
        found |= {(name, title): (verdict, *([reason] if reason else [])) for title, verdict, reason, _ in judgements}
    assert found
    assert {key: (known.get(key), value) for key, value in found.items() if known.get(key) != value} == {}
    return found


def test_table_has_no_wrong_verdict(material_dir):
    known = committed()
    assert len(known) == 126 * 18
    counts = Counter(verdict for verdict, *_ in known.values())
    assert set(counts) == {"right", "refused"}
    assert counts["right"] > 1200


@pytest.mark.slow
def test_some_templates_match_the_table(material_dir):
    compared(list(templates())[::EVERY])


@pytest.mark.slow
def test_every_template_matches_the_table(material_dir):
    assert len(compared(list(templates()))) == len(committed())


@pytest.mark.slow
def test_full_vocabulary_gives_the_same_verdicts(material_dir):
    compared(list(templates())[::EVERY], merges=10**9)


@cache
def builder_of(name):
    """Return the builder and the server of a template."""
    _, source, tokens = next(one for one in templates() if one[0] == name)
    return _builder(source, *tokenizers(tokens, source))


@cache
def real_builder(name):
    """Return the builder and the server of a real tokenizer with its own template."""
    from transformers import AutoTokenizer

    directory = MATERIAL / "tokenizers" / name
    tokenizer = load_tokenizer(str(directory))
    return _builder(tokenizer.chat_template, tokenizer, Server(AutoTokenizer.from_pretrained(directory), None))


def _builder(source, tokenizer, server):
    template = ChatTemplate(source, tokenizer.special_tokens, "own", NOW)
    return ExampleBuilder(tokenizer, template, DataConfig(), 100_000), server


def agree(builder, server, max_examples):
    """Return how many random conversations are proven; the oracle must confirm each, and the others are refused."""
    proven = 0

    @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(conversation=st.booleans().flatmap(random_conversations))
    def law(conversation):
        nonlocal proven
        outcome = builder.build([conversation])[0]
        if outcome.problem is None:
            proven += 1
            assert faults(server, conversation, outcome.examples) == [] or is_ambiguous(conversation)

    law()
    return proven


@pytest.mark.parametrize("name", SAMPLE)
def test_random_conversations_are_right_or_refused(name, material_dir):
    assert agree(*builder_of(name), max_examples=12)


@pytest.mark.slow
def test_random_conversations_with_every_template(material_dir):
    names = [name for name, _, _ in templates()]
    proven = [agree(builder, server, 12) for builder, server in map(builder_of, names) if refusal(builder) is None]
    assert sum(map(bool, proven)) > 80


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_conversations_with_real_tokenizers(name, material_dir):
    assert agree(*real_builder(name), max_examples=60) > 5
