"""The cache of words and their ids: the words are the tokenizer's, and the memory is bounded."""

import re
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sft_cli.chat.tokens.segments import CACHE_SIZE, SegmentEncoder
from sft_cli.chat.tokens.tokenizer import load_tokenizer
from sft_cli.chat.tokens.word_cache import GPT2_PATTERN, WordIdCache, ascii_pattern
from sft_cli.utils.text import any_of
from tests.chat.encode_helpers import HARD, LLAMA3, MATERIAL, byte_level, chat_tokenizer
from tests.lanes import examples


@pytest.mark.parametrize("expression", [GPT2_PATTERN, LLAMA3, LLAMA3.replace("{1,3}", "")])
@settings(deadline=None, max_examples=examples(300))
@given(
    st.text(st.characters(max_codepoint=127)) | st.lists(st.sampled_from([x for x in HARD if x.isascii()])).map("".join)
)
def test_ids_of_ascii_words_equal_the_tokenizers(expression, text):
    backend, words = _by_expression(expression)
    assert words.encode(text) == backend.encode(text).ids


@pytest.mark.parametrize("expression", [GPT2_PATTERN, LLAMA3, LLAMA3.replace("{1,3}", "")])
@settings(deadline=None, max_examples=examples(300))
@given(st.lists(st.sampled_from([*HARD, " ", " ", "x", "caf\u00e9"]), max_size=12).map("".join))
@example("x caf\u00e9 x \u4f60 'S \u0301 1 \u2019s.\n\n x")
@example("caf\u00e9 \n x")
def test_ids_of_words_with_other_letters_equal_the_tokenizers(expression, text):
    """The texts contain any white space, combining marks, and clitics next to a space."""
    backend, words = _by_expression(expression)
    assert words.encode(text) in (None, backend.encode(text).ids)


@pytest.mark.material
@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3"])
@settings(deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(st.sampled_from([*HARD, " ", " ", "x", "caf\u00e9"]), max_size=12).map("".join) | st.text())
def test_ids_equal_those_of_real_tokenizers(name, text):
    backend, words = _real(name)
    assert words.encode(text) in (None, backend.encode(text, add_special_tokens=False).ids)


@cache
def _real(name):
    if not (MATERIAL / name).is_dir():
        pytest.skip("the real tokenizers are not here")
    backend = load_tokenizer(str(MATERIAL / name)).backend
    return backend, WordIdCache.from_tokenizer(backend)


@pytest.mark.parametrize("expression", [GPT2_PATTERN, LLAMA3])
def test_only_words_with_other_letters_are_passed_to_the_tokenizer(expression):
    _, words = _by_expression(expression)
    text = "the caf\u00e9 is na\u00efve in the caf\u00e9"
    assert words.encode(text) is not None
    assert {" caf\u00e9", " na\u00efve"} <= words._other_ids.keys()
    assert not any(key.isascii() for key in words._other_ids)
    assert words.encode("caf\u00e9  x") is words.encode("caf\u00e9 \tx") is words.encode("x\u00a0 caf\u00e9") is None


def test_words_that_continue_after_a_space_are_not_split_there():
    backend, words = _by_expression(r"[\p{L} ]+|\s+|[^\s\p{L}]+")
    assert words.encode("a cat") == backend.encode("a cat").ids
    assert words.encode("a caf\u00e9") is None


@cache
def _by_expression(expression):
    backend = byte_level(expression)
    return backend, WordIdCache.from_tokenizer(backend)


def test_no_word_cache_for_an_expression_with_unknown_parts():
    for unknown in (r"\p{Greek}+|\s+", r"[\p{L}&&[a-z]]+", r"\p{N}{1,3}+", r"^a|\w+", r"(?<=a)b", r".+", "(a"):
        assert ascii_pattern(unknown) is None
    assert ascii_pattern(r"\p{Lt}+|[\p{M}\p{Lu}]+").findall("abCD") == ["CD"]


def test_no_word_cache_for_tokenizers_that_merge_across_words():
    for name in ("letters", "sentencepiece", "lowercase"):
        assert WordIdCache.from_tokenizer(chat_tokenizer(name).backend) is None


def test_caches_of_words_and_pieces_are_bounded(monkeypatch):
    tokenizer = chat_tokenizer("words")
    monkeypatch.setattr("sft_cli.chat.tokens.word_cache.MAX_WORDS", 8)
    segments = SegmentEncoder(tokenizer)
    pieces = [("</s>", f"{number} {number} words") for number in range(3 * CACHE_SIZE)]
    found = segments.encode(pieces)
    assert found == tokenizer.encode_batch(["".join(piece) for piece in pieces])
    assert segments.encode(pieces) == found
    assert len(segments._recent) + len(segments._older) <= 2 * CACHE_SIZE + 1
    assert len(segments._word_cache._word_ids) <= 8


@given(st.lists(st.text("ab<|>+", max_size=4)), st.text("ab<|>+c"))
def test_any_of_finds_the_longest_string_from_the_left(strings, text):
    one_by_one = "|".join(re.escape(string) for string in sorted(strings, key=len, reverse=True) if string) or "(?!)"
    assert re.findall(any_of(strings), text) == re.findall(one_by_one, text)
