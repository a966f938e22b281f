"""Boundaries between prompt and answer have the ids of inference, also with difficult tokenizers."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from sft_cli.chat.encode import Encoder
from tests.chat.helpers import SPECIAL, letters, problem, table, talk, text, trained

PLAIN = "{% for m in messages %}{{ m.content + (eos_token if m.role == 'assistant' else '') }}{% endfor %}"


def test_a_merge_across_the_boundary_of_one_turn(build_tokenizer, make_builder):
    """``\\n\\n`` is one token: the prompt ends in one newline, and the answer's newline stays a token of its own."""
    tokenizer = build_tokenizer(letters("\n\n"))
    builder = make_builder(with_tokenizer=tokenizer)
    outcome = builder.build([talk("U:a", "A:\nb")])[0]
    (example,) = outcome.examples
    assert [token for token, _ in table(tokenizer, example)][-4:] == ["\n", "\n", "b", "<|im_end|>"]
    assert trained(tokenizer, outcome) == ["\nb<|im_end|>"]
    prompt = builder.encoder.encode_text("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
    assert list(example.input_ids[: len(prompt)]) == prompt


def test_a_merge_across_a_boundary_of_several_turns_unrolls(build_tokenizer, make_builder):
    """A later prompt contains the earlier answer as a server tokenizes it: merged."""
    tokenizer = build_tokenizer(letters("\n\n"))
    outcome = make_builder(with_tokenizer=tokenizer).build([talk("U:a", "A:\nb", "U:c", "A:d")])[0]
    assert trained(tokenizer, outcome) == ["\nb<|im_end|>", "d<|im_end|>"]
    second = [token for token, _ in table(tokenizer, outcome.examples[1])]
    assert "\n\n" in second
    assert "\n\n" not in [token for token, _ in table(tokenizer, outcome.examples[0])]


def test_an_answer_that_merges_with_the_question(build_tokenizer, make_builder):
    tokenizer = build_tokenizer(letters("ab"))
    outcome = make_builder(PLAIN, tokenizer).build([talk("U:a", "A:b")])[0]
    assert table(tokenizer, outcome.examples[0]) == [("a", 0), ("b", 1), ("</s>", 1)]


def test_special_token_that_absorbs_whitespace(build_tokenizer, make_builder):
    """Phi-3's tokens absorb the white space after them; the leading newline of an answer is trained nevertheless."""
    tokenizer = build_tokenizer(options={"rstrip": True})
    outcome = make_builder(with_tokenizer=tokenizer).build([talk("U:a", "A:\n b")])[0]
    assert trained(tokenizer, outcome) == ["\n b<|im_end|>"]


def test_a_stop_token_that_absorbs_text_of_the_answer_is_rejected(build_tokenizer, make_builder):
    tokenizer = build_tokenizer(options={"lstrip": True})
    outcome = make_builder(with_tokenizer=tokenizer).build([talk("U:a", "A:b ")])[0]
    assert problem(outcome) == "the trained ids decode to 'b<|im_end|>', not to 'b <|im_end|>'"


def sentencepiece():
    """Return a tokenizer like Llama 2's: a space before every text, spaces as U+2581, bytes for unknown characters."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz[]/", "▁a", "▁b"]
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {word: id for id, word in enumerate(words)}
    model = models.BPE(vocabulary, [("▁", "a"), ("▁", "b")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    return backend


SPACED = (
    "{% for m in messages %}{{ '[' + m.content + ']' if m.role == 'user' else ' ' + m.content + ' </s>' }}{% endfor %}"
)


@pytest.mark.parametrize("answer", ["a b", " a", "\na", "a ", "\u4f60a", "x </s> y", "</s>.", "</s>a"])
def test_sentencepiece_adds_no_space_between_texts(build_tokenizer, make_builder, answer):
    tokenizer = build_tokenizer(sentencepiece(), SPECIAL)
    outcome = make_builder(SPACED, tokenizer).build([talk("U:a", f"A:{answer}")])[0]
    assert trained(tokenizer, outcome) == [f" {answer} </s>"]


@pytest.mark.parametrize("answer", ["a b", "\na", "</s>a", "a</s>."])
def test_sentencepiece_without_a_space_before_the_answer(build_tokenizer, make_builder, answer):
    """After ``]`` the answer begins without the space that is added at the start of a text."""
    tokenizer = build_tokenizer(sentencepiece(), SPECIAL)
    source = SPACED.replace("' ' + m.content + ' </s>'", "m.content + '</s>'")
    outcome = make_builder(source, tokenizer).build([talk("U:a", f"A:{answer}")])[0]
    assert trained(tokenizer, outcome) == [f"{answer}</s>"]
    assert text(tokenizer, outcome.examples[0]).startswith("[a]")


@pytest.mark.parametrize("answer", ["a", "a</s>b", "</s>a"])
def test_sentencepiece_with_a_space_before_the_answer_that_would_merge(build_tokenizer, make_builder, answer):
    """The prompt ends in a space, and the answer begins without one."""
    tokenizer = build_tokenizer(sentencepiece(), SPECIAL)
    source = SPACED.replace("+ ']'", "+ '] '").replace("' ' + m.content + ' </s>'", "m.content + '</s>'")
    outcome = make_builder(source, tokenizer).build([talk("U:a", f"A:{answer}")])[0]
    assert trained(tokenizer, outcome) == [f"{answer}</s>"]
    assert text(tokenizer, outcome.examples[0]) == f"[a] {answer}</s>"


def test_normalization_across_the_boundary(build_tokenizer, make_builder):
    """``e`` + combining acute is one character after NFC: a prompt in ``e`` keeps its token."""
    backend = letters()
    backend.normalizer = normalizers.NFC()
    tokenizer = build_tokenizer(backend)
    outcome = make_builder(PLAIN, tokenizer).build([talk("U:e", "A:\u0301x"), talk("U:a", "A:e\u0301")])
    assert [trained(tokenizer, one) for one in outcome] == [["\u0301x</s>"], ["\u00e9</s>"]]


def test_text_that_the_tokenizer_cannot_write_is_rejected(build_tokenizer, make_builder):
    """A vocabulary without bytes loses characters: the trained text would differ from the answer."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "hi": 1}, unk_token="<unk>"))
    tokenizer = build_tokenizer(backend, ("</s>",))
    outcome = make_builder(PLAIN, tokenizer).build([talk("U:hi", "A:yo")])[0]
    assert problem(outcome, "mine") == "the trained ids decode to ' </s>', not to 'yo</s>'"


def test_normalization_that_makes_a_special_token_of_users_text_is_rejected(build_tokenizer, make_builder):
    """A tokenizer that lowercases before it looks for special tokens reads ``</S>`` as one."""
    backend = letters()
    backend.normalizer = normalizers.Lowercase()
    tokenizer = build_tokenizer(backend, ("</s>",), {"normalized": True})
    outcome = make_builder(PLAIN, tokenizer).build([talk("U:a </S> b", "A:yo")])[0]
    assert problem(outcome, "mine") == "its control tokens are not exactly those the template wrote"


def test_special_strings_across_messages_are_rejected(make_builder):
    outcome = make_builder(PLAIN).build([talk("U:hi <|im_", "A:end|>")])[0]
    assert problem(outcome, "mine") == "its control tokens are not exactly those the template wrote"


def test_the_ids_of_a_prompt_equal_those_of_the_tokenizer(tokenizer):
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert Encoder(tokenizer).encode_text(prompt) == tokenizer.backend.encode(prompt, add_special_tokens=False).ids
