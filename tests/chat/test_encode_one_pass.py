"""Encoding in one pass gives the ids of tokenizing up to every cut, for every text and every cut."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from sft_cli.chat.encode import EncodedText, Encoder
from sft_cli.chat.masks.rendered_text import RenderedText, TrainedSpan
from sft_cli.chat.tokens.tokenizer import ChatTokenizer
from tests.chat.encode_helpers import BACKENDS, HARD, OPTIONS, REAL, chat_tokenizer
from tests.lanes import examples

ALL = [*BACKENDS, *OPTIONS, *(pytest.param(name, marks=pytest.mark.material) for name in REAL)]


@cache
def encoder(name):
    """Return the encoder of a tokenizer."""
    return Encoder(chat_tokenizer(name))


def stop_of(tokenizer):
    """Return a control token that ends answers."""
    return next(name for name in ("<|im_end|>", "<|eot_id|>", "</s>") if name in tokenizer.control_tokens)


def rendered(tokenizer, *turns):
    """Return a text of ``(prompt, answer)`` pairs; ``@`` in a prompt is a control token."""
    stop, text, spans = stop_of(tokenizer), "", []
    for prompt, answer in turns:
        start = len(text) + len(prompt.replace("@", stop))
        text += prompt.replace("@", stop) + answer + stop
        spans.append(TrainedSpan(start, len(text), 1.0))
    return RenderedText(text, tuple(spans), (stop,) * len(turns))


def up_to_every_cut(tokenizer, one):
    """Return ids and spans from tokenizing the text up to each cut, if decoding them gives the text: the reference."""

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
        texts, span_text = text(whole[start:end]), one.text[span.start : span.end]
        if texts.removeprefix(text([])) not in (span_text, tokenizer.normalize(span_text)):
            return None
    written = list(_control_in(tokenizer, one.text))
    if [id for id in whole if id in tokenizer.control_tokens.values()] != [
        tokenizer.control_tokens[name] for name in written
    ]:
        return None
    return whole, spans


def _control_in(tokenizer, text):
    """Return the control tokens in a text from the left, the longest match first."""
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
def test_one_pass_equals_encoding_up_to_every_cut(name, turns):
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
def test_ordinary_rows_need_one_pass(name, monkeypatch):
    """Only rows with tokens that depend on their neighbors need several passes."""
    tokenizer = chat_tokenizer(name)
    turns = [
        ("@user\nWhat's 12 + 34?@\n@assistant\n", "It's 46."),
        ("@user\nCaf\u00e9 \u4f60?@\n@assistant\n", "\u597d\n"),
    ]
    fallbacks = []
    monkeypatch.setattr(
        Encoder, "encode_by_prefixes", lambda self, batch: fallbacks.extend(batch) or [None] * len(batch)
    )
    encoder(name).encode([rendered(tokenizer, *turns)])
    assert len(fallbacks) == (name in OPTIONS)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=examples(100))
@given(st.lists(SOME, min_size=3, max_size=3).filter(lambda texts: texts[1]), st.booleans())
def test_tokens_that_overlap_a_no_loss_range_carry_no_loss(name, texts, begins):
    """None of the no-loss text is trained; every other token is outside of it."""
    tokenizer = chat_tokenizer(name)
    before, middle, _ = texts
    one = rendered(tokenizer, ("" if begins else "@assistant\n", "".join(texts)))
    start = one.spans[0].start + len(before)
    (result,) = encoder(name).encode([replace(one, no_loss=((start, start + len(middle)),))])
    (all_trained,) = encoder(name).encode([one])
    assert isinstance(result, EncodedText) == isinstance(all_trained, EncodedText)
    if not isinstance(result, EncodedText):
        return
    assert (result.input_ids, result.spans) == (all_trained.input_ids, all_trained.spans)
    ((first, until),), ((begin, end),) = result.no_loss, result.spans
    assert begin <= first < until <= end
    if (one.text.isascii() and tokenizer.backend.decoder is not None) and name not in ("lowercase", *REAL[::2]):
        lengths = [len(tokenizer.decode_batch([[id]])[0]) for id in result.input_ids[begin:end]]
        ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        overlap = [i for i in range(len(lengths)) if ends[i] < len(before) + len(middle) and ends[i + 1] > len(before)]
        if sum(lengths) == one.spans[0].end - one.spans[0].start:
            found = list(range(first - begin, until - begin))
            assert found == overlap or (begins and found == [0, *overlap])


def test_a_token_partly_in_a_no_loss_range_carries_no_loss():
    tokenizer = chat_tokenizer("newlines")
    one = rendered(tokenizer, ("@", "xaby\u00e9z"))
    places = {text: one.text.index(text) for text in ("b", "y", "\u00e9")}
    no_loss_ranges = tuple((at, at + 1) for at in places.values())
    (result,) = encoder("newlines").encode([replace(one, no_loss=no_loss_ranges)])
    excluded = [tokenizer.decode_batch([result.input_ids[start:until]])[0] for start, until in result.no_loss]
    assert excluded == ["ab", "y", "\u00e9"]


def test_a_combining_character_is_excluded_with_its_base():
    """``e`` + combining acute is one character after NFC: it carries no loss if either part carries none."""
    tokenizer = chat_tokenizer("nfc")
    for place in (1, 2):
        one = rendered(tokenizer, ("@", "xe\u0301y"))
        start = one.spans[0].start + place
        (result,) = encoder("nfc").encode([replace(one, no_loss=((start, start + 1),))])
        ((first, until),) = result.no_loss
        assert tokenizer.decode_batch([result.input_ids[first:until]])[0].replace("x", "") in ("\u00e9", "\u00e9y")


def test_no_loss_text_of_a_tokenizer_without_bytes():
    """A decoder that joins words with spaces decodes all tokens at once, because texts of tokens do not add up."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "hi": 1, "you": 2, "there": 3, "</s>": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken("</s>", normalized=False)])
    tokenizer = ChatTokenizer(Path(), backend, {"eos_token": "</s>"}, None)
    one = RenderedText("hi you there </s>", (TrainedSpan(0, 17, 1.0),), ("</s>",), ((4, 5),))
    assert Encoder(tokenizer).encode([one])[0] == EncodedText([1, 2, 3, 4], [(0, 4)], [(1, 2)])


def test_documents_are_encoded_in_time_that_grows_with_their_length():
    """Ten times the text takes about ten times as long, not a hundred, also if the text is one word."""
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
