"""Memory of the logits of a chunk of trained positions, measured on smaller chunks of fake tensors."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.device import ComputeSetup
from sft_cli.model.head.chunked_loss import MAX_CPU_CHUNK, LossInputs, OutputHead, weighted_loss
from sft_cli.model.head.logits import LogitsRescaling
from sft_cli.model.memory.layer_memory import LiveBytes
from sft_cli.model.quant import causal_lm

SMALL_CHUNK, LARGE_CHUNK = 64, 128
"""Numbers of positions of the two measured chunks."""


def logits_bytes(model: nn.Module, setup: ComputeSetup, loss: LossConfig) -> Callable[[int], int]:
    """Return a function from the positions of a chunk to the peak bytes of its objective and gradient.

    Args:
        model: A causal LM with its adapter, of fake tensors.
        setup: Device and compute dtype.
        loss: The objective; a KL term also needs the logits of the base and their softmax.
    """
    lm = causal_lm(model)
    cpu = setup.device.type == "cpu"
    vocabulary = lm.config.get_text_config().vocab_size
    module = lm.get_output_embeddings()
    # On CUDA the log softmax needs separate memory.
    extra = vocabulary * 4 * ((not cpu) + 2 * (loss.kl > 0))
    small, large = (
        SMALL_CHUNK * vocabulary * (setup.dtype.itemsize + 4),
        LARGE_CHUNK * vocabulary * (setup.dtype.itemsize + 4),
    )
    if module is not None and isinstance(module.weight, FakeTensor):
        small, large = (
            _measure_chunk(module, size, setup, replace(loss, kl=0.0)) for size in (SMALL_CHUNK, LARGE_CHUNK)
        )

    def by_chunk(positions: int) -> int:
        """Return the bytes for a number of positions, on the straight line through both measured chunks."""
        size = min(positions, MAX_CPU_CHUNK) if cpu else positions
        return int(small + (large - small) * (size - SMALL_CHUNK) / (LARGE_CHUNK - SMALL_CHUNK)) + size * extra

    return by_chunk


def _measure_chunk(module: nn.Module, positions: int, setup: ComputeSetup, loss: LossConfig) -> int:
    """Measure two chunks on a CPU; two, because the gradients of a trained head are added over chunks."""
    weight = module.weight
    assert isinstance(weight, FakeTensor), "the model consists of fake tensors"
    with weight.fake_mode:
        states = torch.empty(2 * positions, weight.shape[1], dtype=weight.dtype, requires_grad=True)
        targets, weights = torch.zeros(2 * positions, dtype=torch.long), torch.ones(2 * positions)
        with LiveBytes() as live:
            for value in module.parameters():
                live.ignore(value)
            with ComputeSetup(torch.device("cpu"), setup.dtype).precision():
                weighted_loss(
                    OutputHead(module, LogitsRescaling(), positions), LossInputs(states, targets, weights, loss)
                )
        return live.peak
