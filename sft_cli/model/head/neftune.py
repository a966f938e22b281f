"""NEFTune: noise on the embeddings in training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sft_cli.batching.packed_row import PackedRow


@contextmanager
def embedding_noise(lm: PreTrainedModel, alpha: float, row: PackedRow) -> Iterator[None]:
    """Add uniform noise in +- alpha / sqrt(length x width) to the embeddings inside the block.

    The formula is that of Jain et al. 2023, arXiv:2310.05914, section 2. The length is that of the example, so that the
    noise does not depend on the other examples of the row. As in dropout, it depends on the example's position in the
    row. It is drawn by torch's default generator of the device, whose state is part of a checkpoint.
    """
    assert not row.has_shared_prefixes, "tokens that several examples share would share their noise"

    def add(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
        """Return the embeddings with noise."""
        bounds = row.cu_queries.to(embedded.device)
        # With output_size, it does not synchronize with the device to find the length of the result.
        lengths = bounds.diff().repeat_interleave(bounds.diff(), output_size=embedded.shape[1])
        bound = alpha / (lengths * embedded.shape[2]).sqrt()
        noise = torch.rand(embedded.shape, dtype=torch.float32, device=embedded.device) * 2 - 1
        return embedded + (noise * bound[:, None]).to(embedded.dtype)

    hook = lm.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
