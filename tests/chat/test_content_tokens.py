"""Content tokens are single trained ids in assistant messages and plain text everywhere else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.chat.examples import ExampleBuilder
from sft_cli.chat.masks import parity
from sft_cli.chat.template.loading import load_template
from sft_cli.chat.tokens.added_tokens import add_tokens
from sft_cli.chat.tokens.content_tokens import with_content_tokens
from sft_cli.config.schema.config import TemplateConfig
from sft_cli.config.schema.data import DataConfig
from sft_cli.errors import SftError
from sft_cli.types import Message
from tests.chat.helpers import SPECIAL, table, talk, text, trained
from tests.lanes import examples

OWN = ("<|plan|>", "<|done|>")


@pytest.fixture
def make_builder(build_tokenizer):
    """Return a function that makes an ExampleBuilder; ``OWN`` are special tokens, ``listed`` are content tokens."""
    tokenizer = build_tokenizer(special=(*SPECIAL, *OWN))

    def make_builder(listed=OWN, name="chatml", **rules):
        template = load_template(TemplateConfig(name=name), tokenizer)
        found = with_content_tokens(tokenizer, template, (), listed)
        return found, ExampleBuilder(found, template, DataConfig(**rules), 1000)

    return make_builder


def test_content_tokens_are_single_trained_ids_in_an_answer(make_builder):
    """The table is the specification."""
    tokenizer, builder = make_builder()
    (example,) = builder.build([talk("U:2+3", "A:<|plan|>5<|done|>")])[0].examples
    assert table(tokenizer, example) == [
        ("<|im_start|>", 0), *((letter, 0) for letter in "user\n2+3"), ("<|im_end|>", 0), ("\n", 0),
        ("<|im_start|>", 0), *((letter, 0) for letter in "assistant\n"),
        ("<|plan|>", 1), ("5", 1), ("<|done|>", 1), ("<|im_end|>", 1),
    ]  # fmt: skip


def test_tokens_that_are_not_listed_are_encoded_as_characters(make_builder):
    tokenizer, builder = make_builder(listed=())
    outcome = builder.build([talk("U:q", "A:<|plan|>5")])[0]
    assert "sanitized" in outcome.remarks
    assert [row for row in table(tokenizer, outcome.examples[0]) if row[1]][:3] == [("<", 1), ("|", 1), ("p", 1)]


@pytest.mark.parametrize("turn", ["S:<|plan|>", "U:<|plan|>", "T:<|plan|>"])
def test_content_tokens_in_other_messages_are_encoded_as_characters(make_builder, turn):
    tokenizer, builder = make_builder()
    outcome = builder.build([talk(*(["U:q"] if turn[0] == "T" else []), turn, "U:r", "A:<|plan|>a")])[0]
    assert "sanitized" in outcome.remarks
    ids = tokenizer.encode_batch(["<|plan|>"])[0]
    assert outcome.examples[0].input_ids.count(ids[0]) == 1
    assert trained(tokenizer, outcome) == ["<|plan|>a<|im_end|>"]
    assert text(tokenizer, outcome.examples[0]).count("<|plan|>") == 2


def test_other_special_tokens_stay_characters_in_an_answer(make_builder):
    tokenizer, builder = make_builder(listed=OWN[:1])
    outcome = builder.build([talk("U:q", "A:<|plan|><|done|><|im_end|>.")])[0]
    ids = outcome.examples[0].input_ids
    assert [ids.count(tokenizer.control_tokens[token]) for token in (*OWN, "<|im_end|>")] == [1, 0, 2]
    assert trained(tokenizer, outcome) == ["<|plan|><|done|><|im_end|>.<|im_end|>"]


@pytest.mark.parametrize("answer", ["<|plan|>", "a<|done|>", "<|done|><|done|>", " <|plan|> a \n<|done|>\n"])
def test_an_answer_may_begin_and_end_with_content_tokens(make_builder, answer):
    tokenizer, builder = make_builder()
    assert trained(tokenizer, builder.build([talk("U:q", f"A:{answer}")])[0]) == [f"{answer}<|im_end|>"]


def test_reasoning_may_contain_content_tokens(make_builder):
    tokenizer, builder = make_builder(name="chatml")
    outcome = builder.build([talk("U:q", "A:<think>\n<|plan|>x\n</think>\n\n<|done|>")])[0]
    assert trained(tokenizer, outcome) == ["<think>\n<|plan|>x\n</think>\n\n<|done|><|im_end|>"]
    assert "sanitized" not in outcome.remarks


def test_no_loss_text_may_contain_content_tokens(make_builder):
    tokenizer, builder = make_builder(no_loss_patterns=[r"<\|plan\|>.*?<\|done\|>"])
    assert trained(tokenizer, builder.build([talk("U:q", "A:a<|plan|>b<|done|>c")])[0]) == ["a|c<|im_end|>"]


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.sampled_from([*OWN, "<|im_end|>", "a", " ", "\n", "é"]), max_size=6).map("".join))
def test_trained_ids_decode_to_the_answer_with_single_content_ids(make_builder_once, answer):
    tokenizer, builder = make_builder_once
    outcome = builder.build([talk("U:q", f"A:x{answer}.")])[0]
    assert trained(tokenizer, outcome) == [f"x{answer}.<|im_end|>"]
    (example,) = outcome.examples
    for token in OWN:
        assert example.input_ids.count(tokenizer.control_tokens[token]) == answer.count(token)


@pytest.fixture(scope="module")
def make_builder_once(tmp_path_factory):
    """Make one tokenizer and builder for all inputs of a property."""
    from tokenizers import AddedToken

    from sft_cli.chat.tokens.tokenizer import load_tokenizer
    from tests.chat.helpers import letters

    backend, directory = letters(), tmp_path_factory.mktemp("own")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in (*SPECIAL, *OWN)])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    tokenizer = load_tokenizer(str(directory))
    template = load_template(TemplateConfig(name="chatml"), tokenizer)
    found = with_content_tokens(tokenizer, template, (), OWN)
    return found, ExampleBuilder(found, template, DataConfig(), 1000)


def test_a_server_makes_the_same_ids_of_the_history(make_builder, tmp_path):
    tokenizer, builder = make_builder()
    golden = parity.golden_prompt(builder, talk("U:q", "A:<|plan|>a<|done|>", "U:r", "A:b"))
    assert golden is not None
    assert golden.input_ids.count(tokenizer.control_tokens["<|plan|>"]) == 1
    tokenizer.with_template(builder.span_finder.template.source).save(tmp_path / "server")
    assert parity.check_parity(tmp_path / "server", [golden]) == 1


@pytest.mark.parametrize("name", ["chatml", "alpaca"])
def test_added_tokens_are_content_unless_the_template_writes_them(build_tokenizer, tmp_path, monkeypatch, name):
    """ChatML's own tokens, added to a base model, are never content."""
    monkeypatch.setenv("SFT_HOME", str(tmp_path / "home"))
    added = ["<|im_start|>", "<|im_end|>", "<|plan|>", "<tool>"]
    tokenizer = add_tokens(build_tokenizer(special=("<s>", "</s>")), added)
    found = with_content_tokens(tokenizer, load_template(TemplateConfig(name=name), tokenizer), added, [])
    expected = {"chatml": ("<|plan|>",), "alpaca": ("<|im_start|>", "<|im_end|>", "<|plan|>")}
    assert found.content_tokens == expected[name]


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("<|plam|>", "'<|plam|>' is not a token of the tokenizer"),
        ("a", "'a' is an ordinary token, which is a single id in every text"),
        (
            "<|im_end|>",
            "'<|im_end|>' is a token that the template or the tokenizer writes itself",
        ),
        ("</s>", "'</s>' is a token that the template or the tokenizer writes itself"),
    ],
)
def test_a_token_that_cannot_be_content_is_rejected(make_builder, token, problem):
    with pytest.raises(SftError) as caught:
        make_builder(listed=[token])
    assert caught.value.where == "data.content_tokens"
    assert caught.value.problem == problem


def test_content_tokens_are_allowed_without_sanitizing(make_builder):
    tokenizer, builder = make_builder(sanitize=False)
    assert trained(tokenizer, builder.build([talk("U:q", "A:<|plan|>")])[0]) == ["<|plan|><|im_end|>"]
    assert "holds the special token '<|plan|>'" in builder.build([talk("U:<|plan|>", "A:a")])[0].problem.problem


def test_a_reasoning_key_may_contain_content_tokens(build_tokenizer):
    source = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + (m.reasoning_content or '') + '|' + m.content"
        " + '<|im_end|>\\n' -}}{%- endfor -%}{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}"
    )
    tokenizer = build_tokenizer(special=(*SPECIAL, *OWN), template=source)
    template = load_template(TemplateConfig(), tokenizer)
    found = with_content_tokens(tokenizer, template, (), OWN)
    answer = Message("assistant", "b", extra={"reasoning_content": "<|plan|>a"})
    outcome = ExampleBuilder(found, template, DataConfig(), 1000).build([talk("U:q", answer)])[0]
    assert trained(found, outcome) == ["<|plan|>a|b<|im_end|>"]
    assert "sanitized" not in outcome.remarks
