"""Tiny random models of real families, and rows of documents for them."""

from dataclasses import dataclass

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from sft_cli.batching import packed_row as segments

VOCABULARY = 160
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama-tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "mistral-window": lambda: MistralConfig(**SIZES, sliding_window=3),
    "gemma2": lambda: Gemma2Config(**SIZES, sliding_window=3),
    "cohere": lambda: CohereConfig(**SIZES),
    "granite": lambda: GraniteConfig(**SIZES, logits_scaling=3.0, attention_multiplier=0.2),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64),
}


def tiny(family: str) -> PreTrainedModel:
    """Return a float32 model of the family, always with the same weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    # Dropout, where a family's default has it, would hide what is compared.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


@dataclass(frozen=True)
class Documents:
    """Documents with two trained tokens of weight 1 and 0.5 each, and their packed row."""

    documents: list[torch.Tensor]
    row: tuple[torch.Tensor, torch.Tensor, segments.PackedRow]
    targets: torch.Tensor
    target_at: torch.Tensor
    target_weights: torch.Tensor


def documents(lengths: list[int], seed: int = 0) -> Documents:
    """Return random documents of at least three tokens; the second and the last token of each are trained."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    places = torch.tensor([[start, start + len(own) - 2] for start, own in zip(bounds[:-1].tolist(), ids, strict=True)])
    joined = torch.cat(ids)
    row = (joined[None], positions, segments.pack_row(lengths))
    at = places.flatten()
    return Documents(ids, row, joined[at + 1], at, torch.tensor([1.0, 0.5] * len(lengths)))


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The tiny Llama as a directory for ``from_pretrained``."""
    directory = tmp_path_factory.mktemp("base")
    tiny("llama").save_pretrained(directory)
    return directory


@pytest.fixture
def build():
    return tiny


@pytest.fixture
def make_batch():
    return documents
