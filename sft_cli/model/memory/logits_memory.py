"""What the logits of a chunk of trained positions take, counted by computing a smaller chunk without contents."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.device import Machine
from sft_cli.model.head.chunked_loss import CPU_CHUNK, Head, Task, weighted_sum
from sft_cli.model.head.logits import Rescale
from sft_cli.model.memory.live_bytes import Live
from sft_cli.model.quant import causal_lm

SMALL, LARGE = 64, 128
"""Positions of the two counted chunks."""


def head_bytes(model: nn.Module, machine: Machine, loss: LossConfig) -> Callable[[int], int]:
    """Most bytes that live while the objective of a chunk and its gradient are formed, by the chunk's positions.

    Args:
        model: A causal LM with its adapter, of tensors without contents.
        machine: Device and compute type.
        loss: The objective; a KL term needs the logits of the base too, and their softmax.
    """
    lm = causal_lm(model)
    cpu = machine.device.type == "cpu"
    vocabulary = lm.config.get_text_config().vocab_size
    module = lm.get_output_embeddings()
    # On CUDA the log softmax has memory of its own.
    beside = vocabulary * 4 * ((not cpu) + 2 * (loss.kl > 0))
    small, large = SMALL * vocabulary * (machine.dtype.itemsize + 4), LARGE * vocabulary * (machine.dtype.itemsize + 4)
    if module is not None and isinstance(module.weight, FakeTensor):
        small, large = (_counted(module, size, machine, replace(loss, kl=0.0)) for size in (SMALL, LARGE))

    def by_chunk(positions: int) -> int:
        size = min(positions, CPU_CHUNK) if cpu else positions
        return int(small + (large - small) * (size - SMALL) / (LARGE - SMALL)) + size * beside

    return by_chunk


def _counted(module: nn.Module, positions: int, machine: Machine, loss: LossConfig) -> int:
    """The same for two chunks of few positions, on a CPU; gradients of a trained head are added up over chunks."""
    weight = module.weight
    assert isinstance(weight, FakeTensor), "the tensors of a model that was counted have no contents"
    with weight.fake_mode:
        states = torch.empty(2 * positions, weight.shape[1], dtype=weight.dtype, requires_grad=True)
        targets, weights = torch.zeros(2 * positions, dtype=torch.long), torch.ones(2 * positions)
        with Live() as live:
            for value in module.parameters():
                live.ignore(value)
            with Machine(torch.device("cpu"), machine.dtype).precision():
                weighted_sum(Head(module, Rescale(), positions), Task(states, targets, weights, loss))
        return live.most
