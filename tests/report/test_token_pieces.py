"""Pieces of text join to the decoded text for any ids; no token is lost or counted twice."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.report.token_pieces import PreparedTokenReader, TextPiece
from tests.lanes import examples
from tests.report.helpers import SMALL

STOP = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(SMALL))


@pytest.fixture(scope="module")
def reader(tokenizer):
    return PreparedTokenReader(tokenizer, [STOP])


def byte_fallback() -> ChatTokenizer:
    """Return a tokenizer like SentencePiece with byte fallback: a few words, and bytes for all other text."""
    vocabulary = {"<unk>": 0, "▁": 1, "▁hello": 2, "a": 3} | {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return ChatTokenizer(SMALL, backend, {}, None)


def check(reader, tokenizer, ids, trained):
    """Check the properties of pieces."""
    pieces = reader.pieces(ids, trained)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode_batch([ids])[0]
    assert sum(piece.num_ids for piece in pieces) == len(ids)
    assert sum(piece.num_trained for piece in pieces) == sum(trained)
    at = 0
    for piece in pieces:
        assert piece.num_trained == sum(trained[at : at + piece.num_ids])
        at += piece.num_ids
    return pieces


def test_row_of_known_text(reader, tokenizer):
    """Special tokens are distinguished from text, and the trained stop token from the one after the question."""
    ids = tokenizer.encode_batch([f"q{STOP}\né{STOP}"])[0]
    trained = [False] * (len(ids) - 3) + [True] * 3
    assert check(reader, tokenizer, ids, trained) == [
        TextPiece("q", 1, 0),
        TextPiece(STOP, 1, 0, special=True),
        TextPiece("\n", 1, 0),
        TextPiece("é", 2, 2),
        TextPiece(STOP, 1, 1, special=True, stop=True),
    ]


def test_pieces_mark_a_partly_trained_character(reader, tokenizer):
    ids = tokenizer.encode_batch(["aéb"])[0]
    pieces = check(reader, tokenizer, ids, [False, False, True, True])
    assert [(piece.text, piece.loss) for piece in pieces] == [("a", "none"), ("é", "some"), ("b", "all")]


def test_incomplete_bytes_do_not_hide_the_next_token(reader, tokenizer):
    """After half a character, the stop token is still a separate piece."""
    half = tokenizer.encode_batch(["😀"])[0][:2]
    ids = [*half, *tokenizer.encode_batch([f"{STOP}x"])[0]]
    assert [piece.text for piece in check(reader, tokenizer, ids, [True] * len(ids))][-2:] == [STOP, "x"]


@given(st.text(max_size=80), st.randoms())
def test_pieces_join_to_the_decoded_text(text, chance):
    tokenizer = load_tokenizer(str(SMALL))
    ids = tokenizer.encode_batch([text])[0]
    trained = [chance.random() < 0.5 for _ in ids]
    pieces = check(PreparedTokenReader(tokenizer, [STOP]), tokenizer, ids, trained)
    assert "".join(piece.text for piece in pieces) == text


@settings(max_examples=examples(60))
@given(st.lists(st.integers(0, 280), max_size=120))
def test_pieces_of_random_ids_join_to_the_decoded_text(ids):
    tokenizer = load_tokenizer(str(SMALL))
    known = tokenizer.backend.get_vocab_size()
    ids = [id % known for id in ids]
    check(PreparedTokenReader(tokenizer, [STOP]), tokenizer, ids, [id % 2 == 0 for id in ids])


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_pieces_of_a_tokenizer_with_byte_fallback(text):
    """Its decoder reads consecutive bytes together and removes the space at the beginning."""
    tokenizer = byte_fallback()
    ids = [4 + byte for byte in text.encode()]
    for around in (ids, [1, *ids, 2], [2, 1, *ids, 3, 1]):
        check(PreparedTokenReader(tokenizer, []), tokenizer, around, [True] * len(around))


@pytest.mark.material
@pytest.mark.parametrize("name", ["llama2", "llama3", "mistral_v3", "qwen2_5", "qwen3"])
def test_pieces_of_real_tokenizers(name, material_dir):
    tokenizer = load_tokenizer(str(material_dir / "tokenizers" / name))
    reader, chance = PreparedTokenReader(tokenizer, []), random.Random(0)
    pool = "aé 你好😀\n\n\ufffdק<>🏴 ́𝔘   x👩‍👩‍👧"
    for _ in range(60):
        text = "".join(chance.choice(pool) for _ in range(chance.randint(0, 60)))
        ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
        check(reader, tokenizer, ids, [chance.random() < 0.5 for _ in ids])
        ids = [chance.randrange(30000) for _ in ids]
        check(reader, tokenizer, ids, [chance.random() < 0.5 for _ in ids])


@settings(deadline=None)
@given(st.text(min_size=1, max_size=12), st.integers(2, 60), st.integers(20, 200), st.integers(0, 700))
def test_excerpt_accounts_for_every_token(text, times, limit, first):
    """Shown and omitted tokens add up to the row; its ends and the first token with loss are shown."""
    tokenizer = load_tokenizer(str(SMALL))
    ids = tokenizer.encode_batch([text * times])[0]
    trained = [at >= first and at % 3 == 0 for at in range(len(ids))]
    stretches = PreparedTokenReader(tokenizer, []).excerpt(ids, trained, limit)
    shown = [piece for stretch in stretches for piece in stretch.pieces]
    assert sum(piece.num_ids for piece in shown) + sum(one.num_hidden for one in stretches) == len(ids)
    assert sum(piece.num_trained for piece in shown) + sum(one.hidden_trained for one in stretches) == sum(trained)
    assert sum(piece.num_ids for piece in shown) <= limit + 3 * 16
    whole = text * times
    assert whole.startswith("".join(piece.text for piece in stretches[0].pieces))
    assert whole.endswith("".join(piece.text for piece in stretches[-1].pieces))
    assert all(one.num_hidden for one in stretches[1:])
    if any(trained):
        before = next(i for i, one in enumerate(stretches) if any(piece.num_trained for piece in one.pieces))
        assert not any(one.hidden_trained for one in stretches[: before + 1])


def test_excerpt_shows_the_loss_of_a_long_row():
    tokenizer = load_tokenizer(str(SMALL))
    ids = tokenizer.encode_batch(["tools " * 1000 + "the answer " * 5 + "more " * 1000])[0]
    begin = len(tokenizer.encode_batch(["tools " * 1000])[0])
    trained = [begin <= at < begin + 8 for at in range(len(ids))]
    stretches = PreparedTokenReader(tokenizer, []).excerpt(ids, trained, 100)
    assert [sum(piece.num_trained for piece in one.pieces) for one in stretches] == [0, 8, 0]
