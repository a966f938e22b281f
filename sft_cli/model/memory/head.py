"""What the logits of a chunk of trained positions take, counted by computing a smaller chunk without contents."""

from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from sft_cli.config.trainer_schema import LossConfig
from sft_cli.model.head.gradient import CPU_CHUNK, Head, Task, weighted_sum
from sft_cli.model.head.logits import Rescale
from sft_cli.model.machine import Machine
from sft_cli.model.memory.live import Live
from sft_cli.model.quant import causal_lm

SMALL, LARGE = 64, 128
"""Positions of the two counted chunks."""


def head_bytes(model: nn.Module, chunk: int, machine: Machine, loss: LossConfig) -> int:
    """Most bytes that live while the objective of a chunk and its gradient are formed.

    Args:
        model: A causal LM with its adapter, of tensors without contents.
        chunk: Most positions whose logits exist at once.
        machine: Device and compute type.
        loss: The objective; a KL term needs the logits of the base too, and their softmax.
    """
    lm = causal_lm(model)
    cpu = machine.device.type == "cpu"
    positions = min(chunk, CPU_CHUNK) if cpu else chunk
    vocabulary = lm.config.get_text_config().vocab_size
    module = lm.get_output_embeddings()
    # On CUDA the log softmax has memory of its own.
    beside = vocabulary * 4 * ((not cpu) + 2 * (loss.kl > 0)) * positions
    if module is None or not isinstance(module.weight, torch.Tensor):
        return positions * vocabulary * (machine.dtype.itemsize + 2 * 4) + beside
    small, large = (_counted(module, size, machine, replace(loss, kl=0.0)) for size in (SMALL, LARGE))
    return int(small + (large - small) * (positions - SMALL) / (LARGE - SMALL)) + beside


def _counted(module: nn.Module, positions: int, machine: Machine, loss: LossConfig) -> int:
    """The same for few positions, on a CPU."""
    weight = module.weight
    assert isinstance(weight, FakeTensor), "the tensors of a model that was counted have no contents"
    with weight.fake_mode:
        states = torch.empty(positions, weight.shape[1], dtype=weight.dtype, requires_grad=True)
        targets, weights = torch.zeros(positions, dtype=torch.long), torch.ones(positions)
        with Live() as live:
            for value in module.parameters():
                live.ignore(value)
            with Machine(torch.device("cpu"), machine.dtype).precision():
                weighted_sum(Head(module, Rescale(), positions), Task(states, targets, weights, loss))
        return live.most
