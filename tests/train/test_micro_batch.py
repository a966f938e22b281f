"""The size of micro-batches that ``auto`` chooses."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.saved_activations import SavedBytes
from sft_cli.train.setup.micro_batch import RowTokens, choose_micro_batch, micro_batch_tokens

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS = RowTokens(longest=500, typical=200, step=40_000)
LAYERS = 10


def estimate(tokens):
    """A layer saves 10 bytes a token, its input 1; the weights are 100,000 bytes."""
    saved = SavedBytes((10 * tokens,) * LAYERS, 0, tokens, 0)
    return MemoryEstimate(100_000, 0, 0, 0, 0, saved, 0)


def chosen(free, *, device=CUDA, rows=ROWS, estimate=estimate, max_length=512, adapter=AdapterKind.lora, **speed):
    config = Config(
        trainer=TrainerConfig(max_length=max_length), adapter=AdapterConfig(kind=adapter), speed=SpeedConfig(**speed)
    )
    return choose_micro_batch(config, rows, estimate, free, device)


def fraction(share, tokens):
    """Return the free bytes of which a step without recomputation needs ``share``."""
    return int(estimate(tokens).total(Checkpointing.none) / share)


def test_all_of_a_step_where_it_fits():
    assert chosen(fraction(0.5, 40_000)).describe() == "micro-batches of up to 40,064 tokens (all of a step)"


@pytest.mark.parametrize("tokens", [9000, 20_000, 39_000])
def test_the_largest_that_needs_no_recomputation(tokens):
    found = chosen(fraction(0.9, tokens))
    assert tokens - 128 < found.tokens <= tokens
    assert "as many as fit without more recomputation" in found.reason


def test_layers_are_recomputed_for_8192_tokens_but_not_for_more():
    """Half of the layers fit as they are at 8,192 tokens, all of them at 4,096."""
    found = chosen(fraction(0.9, 5000))
    assert 8192 <= found.tokens < 10_000
    assert "without more recomputation" in found.reason


@pytest.mark.parametrize("free", [200_000, 150_000])
def test_full_recomputation_bounds_smaller_ones(free):
    """All layers but one save 9 bytes a token, and one layer 10 while it runs."""
    found = chosen(free)
    most = (0.9 * free - 100_000) / 19
    assert most - 128 < found.tokens <= most
    assert found.reason.startswith("as many as fit, ")


def test_never_less_than_the_longest_example_may_have():
    assert chosen(100_000).describe() == "micro-batches of up to 512 tokens (trainer.max_length: memory allows no more)"
    assert chosen(100_000, max_length=9000).tokens == 9000


def test_configured_recomputation_is_kept():
    """Offloading keeps 3 bytes a token, and those of one layer."""
    free = fraction(0.9, 3000)
    assert 3000 - 128 < chosen(free, gradient_checkpointing=Checkpointing.none).tokens <= 3000
    most = (0.9 * free - 100_000) / 13
    assert most - 128 < chosen(free, gradient_checkpointing=Checkpointing.offload).tokens <= most


@pytest.mark.parametrize(
    ("settings", "rows", "device", "tokens", "reason"),
    [
        ({"tokens_per_micro_batch": 600}, ROWS, CUDA, 600, "as configured"),
        ({"packing": False}, ROWS, CUDA, 512, "trainer.max_length: each example has its own"),
        ({"adapter": AdapterKind.prompt}, ROWS, CUDA, 512, "trainer.max_length: each example has its own"),
        ({}, replace(ROWS, step=300), CUDA, 512, "trainer.max_length: a step has no more"),
        ({}, ROWS, CPU, 4096, "the most on a CPU"),
        ({"max_length": 6000}, ROWS, CPU, 6000, "the most on a CPU"),
        ({}, replace(ROWS, step=1000), CPU, 1024, "all of a step"),
    ],
)
def test_what_bounds_the_size(settings, rows, device, tokens, reason):
    found = chosen(10**12, rows=rows, device=device, **settings)
    assert (found.tokens, found.reason) == (tokens, reason)


def test_unknown_memory_allows_8192_tokens():
    unknown = replace(estimate(1), saved=replace(estimate(1).saved, unknown="for a test"))
    assert chosen(10**12, estimate=lambda _: unknown).describe() == (
        "micro-batches of up to 8,192 tokens (its memory is not known)"
    )
    assert chosen(None).tokens == 8192


def rows(lengths, longest, processes=1, examples=4):
    prepared = SimpleNamespace(train=SimpleNamespace(lengths=np.array(lengths)), longest_example=longest)
    return RowTokens.of(Config(trainer=TrainerConfig(examples_per_step=examples)), prepared, processes)


def test_tokens_of_rows():
    assert rows([10] * 100, 30) == RowTokens(longest=30, typical=10, step=40)
    assert rows([10] * 100, 10, processes=2).step == 20 + 10
    assert rows([10, 10], 10, examples=64).step == 20, "the step is no larger than the data"
    skewed = rows([10] * 999 + [1000], 1000)
    assert 1000 <= skewed.step < 1030
    assert micro_batch_tokens(Config(), skewed, 512) == 512
    assert micro_batch_tokens(Config(speed=SpeedConfig(packing=False)), skewed, 512) == 1000


def test_large_steps_are_rarely_larger():
    """Of 1,000 random steps of log-normal lengths, all but a few have fewer tokens."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(4.8, 0.7, 5000)).astype(np.int64)
    bound = rows(lengths, int(lengths.max()), examples=16).step
    steps = random.choice(lengths, (1000, 16)).sum(1)
    assert (steps > bound).sum() < 5
    assert bound < 2 * steps.mean()
