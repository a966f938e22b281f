"""Inputs of the tests of packed attention."""

import torch

# A system prompt of 3, two questions after it (2 and 1), two answers to the first (1 and 1), a separate document of 3.
TREE = ((3, 2, 1, 1, 1, 3), (-1, 0, 1, 1, 0, -1))


def attention_inputs(row, group=2, width=8, seed=0):
    """Return queries, keys and values with two key heads, and sinks."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(row.lengths)
    tensors = [torch.randn(1, heads, tokens, width, generator=generator) for heads in (2 * group, 2, 2)]
    return [*tensors, torch.randn(2 * group, generator=generator)]
