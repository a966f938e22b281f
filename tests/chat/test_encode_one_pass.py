"""One pass gives the ids that tokenizing up to every cut gives, on whatever text and wherever it is cut."""

import re
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_encode import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sft_cli.chat.encode import EncodedText, Encoder
from sft_cli.chat.masks.rendered_text import RenderedText, TrainedSpan
from sft_cli.chat.tokens.segments import CACHE_SIZE, SegmentEncoder
from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.chat.tokens.word_cache import GPT2_PATTERN, WordIdCache, ascii_pattern
from sft_cli.utils.text import any_of
from tests.chat.helpers import SPECIAL, letters
from tests.lanes import examples

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MATERIAL = Path(__file__).resolve().parents[3] / "shared" / "material" / "tokenizers"
REAL = ("llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3")
CORPUS = [
    "it's a test, they're 12345 tests\n\n  indented\r\nlines\t\tand  spaces ",
    "def f(x):\n    return x + 1\n",
    "Caf\u00e9 cafe\u0301 \u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469 \u00a0 \u2019 \u017f",
]
"""What the small tokenizers are trained on."""
HARD = [
    "a",
    "b",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\x0b",
    "\x1c",
    "\x85",
    "\u00a0",
    "'s",
    "'S",
    "'\u017f",
    "1",
    "1234",
    "e",
    "\u0301",
    "\u00e9",
    "\u4f60",
    "\U0001f468",
    "\u200d",
    "\u2581",
    ".",
    "...",
    "<",
    "|",
    "<|im_",
    "end|>",
    "the",
    " the",
]
"""Pieces of text that tokenizers treat unlike their neighbours."""


def byte_level(expression, normalizer=None):
    """A trained byte-level BPE that cuts words by an expression."""
    backend = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(expression), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    if expression == GPT2_PATTERN:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS * 3, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def first_only():
    """SentencePiece in transformers' newer manner: only what begins a text gets a space in front."""
    backend = sentencepiece()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


BACKENDS = {
    "letters": letters,
    "newlines": lambda: letters("\n\n", "ab"),
    "sentencepiece": sentencepiece,
    "first only": first_only,
    "gpt2": lambda: byte_level(GPT2_PATTERN),
    "words": lambda: byte_level(LLAMA3),
    "nfc": lambda: byte_level(LLAMA3, normalizers.NFC()),
    "lowercase": lambda: byte_level(LLAMA3, normalizers.Lowercase()),
}
OPTIONS = {
    "rstrip": {"rstrip": True},
    "lstrip": {"lstrip": True},
    "normalized": {"normalized": True},
    "word": {"single_word": True},
}


@cache
def chat_tokenizer(name):
    """A tokenizer of this file, or one of the material."""
    if name in REAL:
        if not (MATERIAL / name).is_dir():
            pytest.skip("no material here")
        return load_tokenizer(str(MATERIAL / name))
    backend = BACKENDS.get(name, lambda: byte_level(LLAMA3))()
    options = OPTIONS.get(name, {})
    backend.add_special_tokens([AddedToken(text, **{"normalized": False, **options}) for text in SPECIAL])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return ChatTokenizer(Path(), backend, {"bos_token": "<s>", "eos_token": "</s>"}, None)


ALL = [*BACKENDS, *OPTIONS, *(pytest.param(name, marks=pytest.mark.material) for name in REAL)]


@cache
def encoder(name):
    """Its encoder."""
    return Encoder(chat_tokenizer(name))


def stop_of(tokenizer):
    """A control token of the tokenizer that ends answers."""
    return next(name for name in ("<|im_end|>", "<|eot_id|>", "</s>") if name in tokenizer.control_tokens)


def rendered(tokenizer, *turns):
    """A text of ``(prompt, answer)`` pairs; ``@`` in a prompt is a control token."""
    stop, text, spans = stop_of(tokenizer), "", []
    for prompt, answer in turns:
        start = len(text) + len(prompt.replace("@", stop))
        text += prompt.replace("@", stop) + answer + stop
        spans.append(TrainedSpan(start, len(text), 1.0))
    return RenderedText(text, tuple(spans), (stop,) * len(turns))


def up_to_every_cut(tokenizer, one):
    """Ids and spans if the tokenizer, asked for the text up to each cut, and its decoder say they are right."""

    def ids(text):
        return tokenizer.backend.encode(text, add_special_tokens=False).ids

    def text(ids):
        return tokenizer.backend.decode([*anchor, *ids], skip_special_tokens=False)

    whole, cuts, anchor = ids(one.text), [at for span in one.spans for at in (span.start, span.end)], ids("\n")[-1:]
    prompts = [ids(one.text[:at]) for at in cuts]
    if any(whole[: len(prompt)] != prompt for prompt in prompts):
        return None
    spans = list(zip(map(len, prompts[::2]), map(len, prompts[1::2]), strict=True))
    for span, (start, end) in zip(one.spans, spans, strict=True):
        said, wanted = text(whole[start:end]), one.text[span.start : span.end]
        if said.removeprefix(text([])) not in (wanted, tokenizer.normalize(wanted)):
            return None
    written = list(_control_in(tokenizer, one.text))
    if [id for id in whole if id in tokenizer.control_tokens.values()] != [
        tokenizer.control_tokens[name] for name in written
    ]:
        return None
    return whole, spans


def _control_in(tokenizer, text):
    """The control tokens in a text, one by one: the longest that fits, from the left."""
    at = 0
    while at < len(text):
        fitting = [name for name in tokenizer.control_tokens if text.startswith(name, at)]
        if fitting:
            yield max(fitting, key=len)
        at += len(max(fitting, key=len)) if fitting else 1


SOME = st.lists(
    st.sampled_from(HARD) | st.characters(codec="utf-8", exclude_characters="\ufdd0\ufdd1"), max_size=6
).map("".join)
PROMPT = st.lists(st.sampled_from(["@", "<think>", "@assistant\n", "@user\n"]) | SOME, max_size=4).map("".join)
TURNS = st.lists(st.tuples(PROMPT, SOME), min_size=1, max_size=3)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@example([("@assistant\n", "\n\nb")])
@example([("@assistant", " the"), ("\n@user\n the @assistant", "a")])
@example([("x<|im_", "end|>")])
@example([("", "the"), ("", "\u0301")])
@example([("e", "\u0301"), ("@ <think>", "\n")])
@given(TURNS)
def test_one_pass_is_as_good_as_every_cut(name, turns):
    tokenizer = chat_tokenizer(name)
    one = rendered(tokenizer, *turns)
    (result,) = encoder(name).encode([one])
    expected = up_to_every_cut(tokenizer, one)
    if expected is not None:
        assert isinstance(result, EncodedText)
        assert (result.input_ids, result.spans) == expected
    else:
        (again,) = encoder(name).encode_by_prefixes([one])
        assert type(result) is type(again)
        assert str(result) == str(again)


@pytest.mark.parametrize("name", ALL)
def test_ordinary_rows_need_but_one_pass(name, monkeypatch):
    """No row is quietly sent the long way, but for tokens that are found with regard to their neighbours."""
    tokenizer = chat_tokenizer(name)
    turns = [
        ("@user\nWhat's 12 + 34?@\n@assistant\n", "It's 46."),
        ("@user\nCaf\u00e9 \u4f60?@\n@assistant\n", "\u597d\n"),
    ]
    sent = []
    monkeypatch.setattr(Encoder, "encode_by_prefixes", lambda self, batch: sent.extend(batch) or [None] * len(batch))
    encoder(name).encode([rendered(tokenizer, *turns)])
    assert len(sent) == (name in OPTIONS)


@pytest.mark.parametrize("expression", [GPT2_PATTERN, LLAMA3, LLAMA3.replace("{1,3}", "")])
@settings(deadline=None, max_examples=examples(300))
@given(
    st.text(st.characters(max_codepoint=127)) | st.lists(st.sampled_from([x for x in HARD if x.isascii()])).map("".join)
)
def test_ascii_words_are_the_tokenizers(expression, text):
    backend, words = _by_expression(expression)
    assert words.encode(text) == backend.encode(text).ids


@pytest.mark.parametrize("expression", [GPT2_PATTERN, LLAMA3, LLAMA3.replace("{1,3}", "")])
@settings(deadline=None, max_examples=examples(300))
@given(st.lists(st.sampled_from([*HARD, " ", " ", "x", "caf\u00e9"]), max_size=12).map("".join))
@example("x caf\u00e9 x \u4f60 'S \u0301 1 \u2019s.\n\n x")
@example("caf\u00e9 \n x")
def test_words_with_other_letters_are_the_tokenizers(expression, text):
    """Also with white space of any kind, combining marks and clitics next to a space."""
    backend, words = _by_expression(expression)
    assert words.encode(text) in (None, backend.encode(text).ids)


@pytest.mark.material
@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3"])
@settings(deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(st.sampled_from([*HARD, " ", " ", "x", "caf\u00e9"]), max_size=12).map("".join) | st.text())
def test_words_are_those_of_real_tokenizers(name, text):
    backend, words = _real(name)
    assert words.encode(text) in (None, backend.encode(text, add_special_tokens=False).ids)


@cache
def _real(name):
    if not (MATERIAL / name).is_dir():
        pytest.skip("the real tokenizers are not here")
    backend = load_tokenizer(str(MATERIAL / name)).backend
    return backend, WordIdCache.from_tokenizer(backend)


@pytest.mark.parametrize("expression", [GPT2_PATTERN, LLAMA3])
def test_only_what_holds_other_letters_is_given_to_the_tokenizer(expression):
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


def test_an_expression_with_unknown_parts_is_left_to_the_tokenizer():
    for unknown in (r"\p{Greek}+|\s+", r"[\p{L}&&[a-z]]+", r"\p{N}{1,3}+", r"^a|\w+", r"(?<=a)b", r".+", "(a"):
        assert ascii_pattern(unknown) is None
    assert ascii_pattern(r"\p{Lt}+|[\p{M}\p{Lu}]+").findall("abCD") == ["CD"]


def test_words_are_not_asked_of_tokenizers_that_merge_across_them():
    for name in ("letters", "sentencepiece", "lowercase"):
        assert WordIdCache.from_tokenizer(chat_tokenizer(name).backend) is None


def test_memory_of_words_and_pieces_is_bounded(monkeypatch):
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


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=examples(100))
@given(st.lists(SOME, min_size=3, max_size=3).filter(lambda said: said[1]), st.booleans())
def test_tokens_that_overlap_a_no_loss_range_carry_no_loss(name, said, begins):
    """None of the no-loss text is trained; every other token is outside of it."""
    tokenizer = chat_tokenizer(name)
    before, middle, _ = said
    one = rendered(tokenizer, ("" if begins else "@assistant\n", "".join(said)))
    start = one.spans[0].start + len(before)
    (result,) = encoder(name).encode([replace(one, no_loss=((start, start + len(middle)),))])
    (unmuted,) = encoder(name).encode([one])
    assert isinstance(result, EncodedText) == isinstance(unmuted, EncodedText)
    if not isinstance(result, EncodedText):
        return
    assert (result.input_ids, result.spans) == (unmuted.input_ids, unmuted.spans)
    ((first, until),), ((begin, end),) = result.no_loss, result.spans
    assert begin <= first < until <= end
    if (one.text.isascii() and tokenizer.backend.decoder is not None) and name not in ("lowercase", *REAL[::2]):
        said_by = [len(tokenizer.decode_batch([[id]])[0]) for id in result.input_ids[begin:end]]
        reach = [sum(said_by[:i]) for i in range(len(said_by) + 1)]
        overlap = [
            i for i in range(len(said_by)) if reach[i] < len(before) + len(middle) and reach[i + 1] > len(before)
        ]
        if sum(said_by) == one.spans[0].end - one.spans[0].start:
            found = list(range(first - begin, until - begin))
            assert found == overlap or (begins and found == [0, *overlap])


def test_a_token_partly_in_a_no_loss_range_carries_no_loss():
    tokenizer = chat_tokenizer("newlines")
    one = rendered(tokenizer, ("@", "xaby\u00e9z"))
    places = {text: one.text.index(text) for text in ("b", "y", "\u00e9")}
    muted = tuple((at, at + 1) for at in places.values())
    (result,) = encoder("newlines").encode([replace(one, no_loss=muted)])
    told = [tokenizer.decode_batch([result.input_ids[start:until]])[0] for start, until in result.no_loss]
    assert told == ["ab", "y", "\u00e9"]


def test_a_combining_character_is_excluded_with_its_base():
    """``e`` + combining acute is one character after NFC: muting either mutes it."""
    tokenizer = chat_tokenizer("nfc")
    for place in (1, 2):
        one = rendered(tokenizer, ("@", "xe\u0301y"))
        start = one.spans[0].start + place
        (result,) = encoder("nfc").encode([replace(one, no_loss=((start, start + 1),))])
        ((first, until),) = result.no_loss
        assert tokenizer.decode_batch([result.input_ids[first:until]])[0].replace("x", "") in ("\u00e9", "\u00e9y")


def test_no_loss_text_of_a_tokenizer_without_bytes():
    """A decoder that joins words with spaces is read, not added up."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "hi": 1, "you": 2, "there": 3, "</s>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken("</s>", normalized=False)])
    tokenizer = ChatTokenizer(Path(), backend, {"eos_token": "</s>"}, None)
    one = RenderedText("hi you there </s>", (TrainedSpan(0, 17, 1.0),), ("</s>",), ((4, 5),))
    assert Encoder(tokenizer).encode([one])[0] == EncodedText([1, 2, 3, 4], [(0, 4)], [(1, 2)])


def test_documents_are_encoded_in_time_that_grows_with_their_length():
    """Ten times the text takes about ten times as long, not a hundred; texts of one word too."""
    tokenizer = chat_tokenizer("words")
    for word in ("some words 12\n", "x", "\u4f60\u597d "):
        seconds = []
        for count in (2_000, 20_000):
            text = word * count + "</s>"
            one = RenderedText(text, (TrainedSpan(0, len(text), 1.0),), ("</s>",))
            started = time.perf_counter()
            assert isinstance(Encoder(tokenizer).encode([one])[0], EncodedText)
            seconds.append(time.perf_counter() - started)
        assert seconds[1] < 60 * max(seconds[0], 0.005)
