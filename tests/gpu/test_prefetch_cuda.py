"""On CUDA: batches are equal on CPU and GPU, and are copied from pinned memory."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from sft_cli.batching.prefetch import Prefetcher
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Reduction
from sft_cli.data.prepared import TokenizedExample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


class Rows:
    """Eight examples with a common prefix; half of them are replayed."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        ids = [np.concatenate([np.arange(30), draw.integers(0, 99, 20 + k)]) for k in range(8)]
        self.examples = [TokenizedExample(own, (np.arange(len(own)) > 40).astype(np.float32)) for own in ids]
        self.sources = ["text", "chat"] * 4

    def tokens(self, index: int) -> TokenizedExample:
        return self.examples[index]


def steps(device: str) -> list:
    with Prefetcher(
        Rows(),
        lambda step: [(step + k) % 8 for k in range(6)],
        0,
        4,
        reduction=Reduction.token,
        max_tokens=128,
        packed=True,
        share_prefixes=Choice.always,
        replay_sources={"text"},
        device=torch.device(device),
    ) as feed:
        return [feed.get(step) for step in range(4)]


def test_batches_are_equal_on_cpu_and_gpu():
    compared = 0
    for here, there in zip(steps("cpu"), steps("cuda"), strict=True):
        for one, other in zip(here.batches, there.batches, strict=True):
            for own, moved in ((one, other), (one.documents, other.documents)):
                for field in fields(own):
                    value, found = getattr(own, field.name), getattr(moved, field.name)
                    if isinstance(value, torch.Tensor):
                        assert found.is_cuda
                        assert torch.equal(value, found.cpu()), field.name
                        compared += 1
    assert compared > 40
