"""Tokenizers, and texts that are hard to encode in pieces."""

from functools import cache
from pathlib import Path

import pytest
from test_encode import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.chat.tokens.word_cache import GPT2_PATTERN
from tests.chat.helpers import SPECIAL, letters

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
"""Training texts of the small tokenizers."""

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
"""Texts that tokenizers treat differently from their neighbors."""


def byte_level(expression, normalizer=None):
    """Train a byte-level BPE whose words are split by a regular expression."""
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
    """Return SentencePiece as newer versions of transformers convert it: only the start of a text gets a space."""
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
    """Return a tokenizer of this file or of the material."""
    if name in REAL:
        if not (MATERIAL / name).is_dir():
            pytest.skip("no material here")
        return load_tokenizer(str(MATERIAL / name))
    backend = BACKENDS.get(name, lambda: byte_level(LLAMA3))()
    options = OPTIONS.get(name, {})
    backend.add_special_tokens([AddedToken(text, **{"normalized": False, **options}) for text in SPECIAL])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return ChatTokenizer(Path(), backend, {"bos_token": "<s>", "eos_token": "</s>"}, None)
