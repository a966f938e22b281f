"""Random conversations with templates of four styles, intact and mutated: the oracle agrees, or the row is rejected."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Server, faults, runs
from talks import conversations, is_ambiguous
from test_coverage_mutations import MUTATIONS
from tokenizers import AddedToken

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.template.chat_template import ChatTemplate
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from tests.chat.coverage_templates import CONTROL, STYLES, source, talks
from tests.chat.helpers import letters
from tests.lanes import examples

LAW = settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """Return a function from style, mutation and conversation to the error and the findings of the oracle."""
    from transformers import PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tokenizer")
    backend = letters()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    backend.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = load_tokenizer(str(directory))
    served = PreTrainedTokenizerFast(tokenizer_object=backend, **names)

    @cache
    def prepare_template(style, mutation):
        slots = STYLES[style]
        text = source({**slots, **(MUTATIONS[mutation](slots) if mutation else {})})
        make_builder = ExampleBuilder(tokenizer, ChatTemplate(text, names, "mine"), DataConfig(), 100_000)
        try:
            make_builder.template_check.check()
        except SftError as error:
            return None, error, None
        return make_builder, None, Server(served, text)

    def judge(style, mutation, conversation, change=lambda example: example):
        make_builder, problem, server = prepare_template(style, mutation)
        if make_builder is None:
            return problem, []
        outcome = make_builder.build([conversation])[0]
        if outcome.problem is not None:
            return outcome.problem, []
        return None, faults(server, conversation, [change(example) for example in outcome.examples])

    return judge


@LAW
@given(style=st.sampled_from(list(STYLES)), conversation=conversations())
def test_coverage_is_correct_or_the_row_is_rejected(judge, style, conversation):
    problem, wrong = judge(style, None, conversation)
    assert problem is not None or wrong == [] or is_ambiguous(conversation)


@LAW
@given(style=st.sampled_from(list(STYLES)), conversation=conversations(wild=False))
def test_a_conversation_without_markup_is_proven(judge, style, conversation):
    problem, wrong = judge(style, None, conversation)
    assert problem is None
    assert wrong == []


@LAW
@given(
    style=st.sampled_from(list(STYLES)),
    mutation=st.sampled_from(list(MUTATIONS)),
    conversation=conversations(wild=False),
)
def test_a_mutated_template_is_detected(judge, style, mutation, conversation):
    problem, wrong = judge(style, mutation, conversation)
    assert problem is not None or wrong == []


def weighted(example, at, weight):
    """Return the example with another weight at one index."""
    weights = list(example.weights)
    weights[at] = weight
    return replace(example, weights=tuple(weights))


def changed(example, at):
    """Return the example with another id at one index."""
    ids = list(example.input_ids)
    ids[at] = ids[at] + 1 if ids[at] < 200 else ids[at] - 1
    return replace(example, input_ids=tuple(ids))


WRONG = {
    "a token before an answer trained": lambda one: weighted(one, runs(one.weights)[0][0] - 1, 1.0),
    "the first token of an answer untrained": lambda one: weighted(one, runs(one.weights)[0][0], 0.0),
    "a token inside an answer untrained": lambda one: weighted(one, runs(one.weights)[0][0] + 3, 0.0),
    "no stop trained": lambda one: weighted(one, runs(one.weights)[1][1] - 1, 0.0),
    "a token after the stop trained": lambda one: weighted(one, runs(one.weights)[0][1], 1.0),
    "half a weight": lambda one: weighted(one, runs(one.weights)[2][0], 0.5),
    "a question trained": lambda one: weighted(one, 60, 1.0),
    "another id in the context": lambda one: changed(one, 20),
    "another id in the last answer": lambda one: changed(one, -3),
    "no last id": lambda one: replace(one, input_ids=one.input_ids[:-1], weights=one.weights[:-1]),
    "an id more": lambda one: replace(one, input_ids=(*one.input_ids, 5), weights=(*one.weights, 0.0)),
}


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("style", STYLES)
def test_the_oracle_detects_a_wrong_mask(judge, style, change):
    assert judge(style, None, talks()["distinct"]) == (None, [])
    problem, wrong = judge(style, None, talks()["distinct"], WRONG[change])
    assert problem is None
    assert wrong
