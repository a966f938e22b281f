"""Prompt ids and continuations: as served, and as lm-evaluation-harness splits them."""

from types import SimpleNamespace

import pytest

from sft_cli.chat.template import server
from sft_cli.config.schema.suites import SuiteFormat
from sft_cli.data.prepared import Split
from sft_cli.errors import SftError
from sft_cli.eval.engine.prompts import ServedPrompts
from sft_cli.scoring.types import Item
from sft_cli.suites.items import SuiteItem

STOP = 2
QUESTIONS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Cuba": "Havana", "Italy": "Rome"}


def question(text: str, *choices: str, tools=None) -> SuiteItem:
    return SuiteItem(Item("1", ({"role": "user", "content": text},)), "items.jsonl:1", choices, 0, tools)


@pytest.fixture(scope="module")
def tokenizer(runs_dir):
    return server.load_server_tokenizer(runs_dir / "lora" / "tokenizer", None, trust_remote_code=False)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return ServedPrompts(tokenizer, [STOP], {})


def test_prompt_and_answer_have_the_ids_that_were_trained(prompts, runs_dir):
    trained = Split(runs_dir / "prepared-lora" / "train")
    rows = {tuple(trained.tokens(index).input_ids.tolist()) for index in range(len(trained))}
    for country, city in QUESTIONS.items():
        entry = question(f"What is the capital of {country}?", city)
        (one,) = prompts.continuations(entry, SuiteFormat.chat)
        assert one.context == prompts.prompt_ids(entry, SuiteFormat.chat)
        assert (*one.context, *one.ids, STOP) in rows
        assert not one.merged
    assert len(rows) == len(QUESTIONS)


def test_lm_eval_scores_the_last_newline_of_the_template(prompts, tokenizer):
    entry = question("Capital?", "Rome", "Paris")
    served = prompts.continuations(entry, SuiteFormat.chat)
    theirs = prompts.lm_eval_continuations(entry, SuiteFormat.chat)
    assert tokenizer.decode(served[0].ids) == "Rome"
    assert [tokenizer.decode(one.ids) for one in theirs] == ["\nRome", "\nParis"]
    assert [one.context + one.ids for one in theirs] == [one.context + one.ids for one in served]


def test_text_is_encoded_without_the_template(prompts, tokenizer):
    entry = question("Q: why?\nA:", "so")
    (served,) = prompts.continuations(entry, SuiteFormat.text)
    (theirs,) = prompts.lm_eval_continuations(entry, SuiteFormat.text)
    assert tokenizer.decode(served.context + served.ids) == "Q: why?\nA: so"
    assert (served.context, served.ids) == (theirs.context, theirs.ids)
    assert prompts.prompt_text(entry, SuiteFormat.text) == "Q: why?\nA:"


class JoinedTokens:
    """A tokenizer of one id per character, in which "ab" is one token and the template adds nothing."""

    bos_token_id, chat_template = None, ""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(character) for character in text.replace("ab", "\u0100")]

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text)}

    def apply_chat_template(self, messages, *, tokenize, **_):
        text = "".join(message["content"] for message in messages)
        return self.encode(text) if tokenize else text


def test_a_continuation_that_merges_with_the_context_is_encoded_alone():
    prompts = ServedPrompts(JoinedTokens(), [STOP], {})
    entry = question("xa", "b", "bc", "c")
    served = prompts.continuations(entry, SuiteFormat.chat)
    assert [one.merged for one in served] == [True, True, False]
    assert [one.ids for one in served] == [(98,), (98, 99), (99,)]
    assert {one.context for one in served} == {(120, 97)}
    theirs = prompts.lm_eval_continuations(entry, SuiteFormat.chat)
    assert [(one.ids, one.merged) for one in theirs] == [((98,), True), ((99,), False), ((99,), False)]


def test_a_conversation_that_the_template_refuses_is_one_sentence():
    def refuse(messages, **_):
        raise ValueError("no system messages")

    tokenizer = SimpleNamespace(apply_chat_template=refuse, bos_token_id=None)
    prompts = ServedPrompts.__new__(ServedPrompts)
    prompts.tokenizer, prompts._variables, prompts._stops = tokenizer, {}, frozenset([STOP])
    with pytest.raises(SftError, match="the chat template refuses the item: no system messages") as caught:
        prompts.prompt_ids(question("Hi"), SuiteFormat.chat)
    assert caught.value.where == "items.jsonl:1"
