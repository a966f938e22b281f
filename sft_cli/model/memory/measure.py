"""Estimate the memory of a run before any weight is read.

The bytes of weights and trained parameters follow from formulas that can be checked by hand. The activations of a step
are counted: the model, with its adapter, runs forward and backward on fake tensors (shapes and dtypes without contents)
while every live tensor is tracked. The overhead of a process was measured (``FRAGMENTATION``, ``PROCESS_OVERHEAD``).
A CUDA context is not counted here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_cli.config.schema.adapter import VIRTUAL, WHOLE, AdapterConfig, Init, QuantConfig, QuantKind, TrainStopToken
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.speed import SpeedConfig
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.device import ComputeSetup
from sft_cli.model.language_model import MODEL_CODE_ERRORS
from sft_cli.model.load import empty_model, inner_linears, weights_dtype
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.layer_memory import decoder_layers
from sft_cli.model.memory.logits_memory import logits_bytes
from sft_cli.model.memory.saved_activations import SavedBytes, count_saved_bytes, unknown_bytes
from sft_cli.model.quant import causal_lm

DEFAULT_DOCUMENT_TOKENS = 256
"""Number of tokens of a document if no length is given."""
MAX_STATEFUL_TOKENS = 16
"""Number of tokens of the measured row for families that carry a state from token to token."""
FRAGMENTATION = {"cpu": 0.25, "cuda": 0.0}
"""Unused memory between the tensors of a step, as a fraction of the step's bytes: on a CPU, memory that glibc cannot
return while neighboring blocks are in use. Fitted to the cases of scripts/bench/bench_memory.py; not measured on
CUDA."""
PROCESS_OVERHEAD = {"cpu": 150 * 10**6, "cuda": 0}
"""Bytes of a process other than tensors, for any model: on a CPU, the kernels of oneDNN and MKL with their buffers, and
libraries loaded at first use. Fitted to the same cases, in which it was 110 to 330 MB."""
BLOCK_MASK_BYTES = 3
"""Bytes for each pair of tokens while torch's ``create_block_mask`` runs."""
FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Bytes of a 4-bit weight with a float32 scale per 64 weights."""
FOUR_BIT_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""


@dataclass(frozen=True)
class MeasuredModel:
    """Measurements of a model with its adapter; they give the memory of any micro-batch, storage and optimizer.

    Attributes:
        inner_parameters: Number of parameters of the layers that can be quantized.
        other_parameters: Number of all other parameters of the base.
        num_trained: Number of trained parameters.
        full: Whether the base's own weights are trained.
        dtype: Dtype of the weights.
        setup: Device and compute dtype.
        document_tokens: Number of tokens of the measured document.
        one_document: Bytes that a row of one such document saves.
        two_documents: Bytes that a row of two saves; they grow linearly with the documents, but do not start at zero.
        logits: Bytes of the logits, as a function of the positions of a chunk.
    """

    inner_parameters: int
    other_parameters: int
    num_trained: int
    full: bool
    dtype: torch.dtype
    setup: ComputeSetup
    document_tokens: int
    one_document: SavedBytes
    two_documents: SavedBytes
    logits: Callable[[int], int]

    def memory(
        self, quant: QuantConfig, speed: SpeedConfig, loss: LossConfig, *, tokens: int, optimizer_bytes: float
    ) -> MemoryEstimate:
        """Return the memory of a training step.

        Args:
            quant: Storage of the frozen weights; a checkpoint that is stored quantized counts as unquantized.
            speed: The size of a chunk of logits is read.
            loss: The objective; for a KL term, a frozen copy of the base's own weights is kept if they are trained.
            tokens: Number of tokens of a micro-batch.
            optimizer_bytes: Bytes of optimizer state and weight average per trained parameter: 8 for AdamW alone.
        """
        width, copies = (self.dtype.itemsize, 1 + (loss.kl > 0)) if self.full else (4, 1)
        outer = int(self.other_parameters * self.dtype.itemsize)
        if self.full:
            weights = (self.inner_parameters + self.other_parameters - self.num_trained) * width
            layers = self.inner_parameters * width
        else:
            layers = int(self.inner_parameters * bytes_per_frozen_weight(quant, self.dtype.itemsize))
            weights = layers + outer
        saved = self.one_document.interpolate(self.two_documents, tokens / self.document_tokens - 1)
        return MemoryEstimate(
            weights=weights,
            parameters=self.num_trained * width * copies,
            gradients=self.num_trained * width,
            optimizer_state=int(self.num_trained * optimizer_bytes),
            logits=self.logits(min(speed.logits_chunk, tokens)),
            saved=saved,
            num_trained=self.num_trained,
            largest_layer=layers // max(1, len(saved.layers)),
            outer_weights=outer,
            fragmentation=FRAGMENTATION[self.setup.device.type],
            process_overhead=PROCESS_OVERHEAD[self.setup.device.type],
            block_mask=BLOCK_MASK_BYTES * tokens**2 if saved.has_block_mask else 0,
        )


def bytes_per_frozen_weight(quant: QuantConfig, width: int) -> float:
    """Return the bytes per parameter of a frozen linear layer; ``width`` are those of an unquantized weight."""
    if quant.kind in (QuantKind.nf4, QuantKind.fp4):
        return FOUR_BIT_DOUBLE_BYTES if quant.double_quant else FOUR_BIT_BYTES
    return 1.0 if quant.kind is QuantKind.int8 else float(width)


def estimate_memory(
    architecture: PretrainedConfig,
    model: ModelConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    speed: SpeedConfig,
    loss: LossConfig,
    *,
    tokens: int,
    setup: ComputeSetup,
    optimizer_bytes: float,
    document: int | None = None,
) -> MemoryEstimate:
    """Estimate the memory of a training step.

    Args:
        architecture: The model's own configuration.
        model: The settings for loading it.
        quant: Storage of the frozen weights.
        adapter: The adapter.
        speed: Fused layers, packing and the size of a chunk of logits are read.
        loss: The objective.
        tokens: Number of tokens of a micro-batch.
        setup: Device and compute dtype.
        optimizer_bytes: Bytes of optimizer state and weight average per trained parameter.
        document: Number of tokens of a document; None means ``DEFAULT_DOCUMENT_TOKENS``.
    """
    size = min(tokens, document or DEFAULT_DOCUMENT_TOKENS)
    counted = measure_model(architecture, model, adapter, speed, loss, setup=setup, document=size)
    return counted.memory(quant, speed, loss, tokens=tokens, optimizer_bytes=optimizer_bytes)


def measure_model(
    architecture: PretrainedConfig,
    model: ModelConfig,
    adapter: AdapterConfig,
    speed: SpeedConfig,
    loss: LossConfig,
    *,
    setup: ComputeSetup,
    document: int,
    keys_per_token: float = 1.0,
) -> MeasuredModel:
    """Measure the model, with its adapter, by running it forward and backward on fake tensors.

    Args:
        architecture: The model's own configuration.
        model: The settings for loading it.
        adapter: The adapter.
        speed: Fused layers and packing are read.
        loss: The objective.
        setup: Device and compute dtype.
        document: Number of tokens of a document; attention on a CPU saves more for longer ones.
        keys_per_token: See ``count_saved_bytes``.
    """
    full = adapter.kind in WHOLE
    dtype = weights_dtype(model, full, setup.dtype)
    adapted, inner, other = build_meta_model(architecture, adapter, dtype, trust_remote_code=model.trust_remote_code)
    trained = sum(prod(value.shape) for value in adapted.parameters() if value.requires_grad)
    packed = speed.packing and adapter.kind not in VIRTUAL
    if causal_lm(adapted)._is_stateful:
        packed, document = False, min(document, MAX_STATEFUL_TOKENS)  # each token takes operations of its own
    rows = ([document], [document] * 2) if packed else ([document], [document * 2])
    shared = keys_per_token if packed else 1.0
    num_layers = len(decoder_layers(adapted))
    try:
        one, two = count_saved_bytes(adapted, rows, setup, fused=speed.fused, packed=packed, keys_per_token=shared)
    except MODEL_CODE_ERRORS as error:  # some models need values, masks or more than ids; the run continues
        one = two = unknown_bytes(num_layers, error)
    logits = logits_bytes(adapted, setup, loss)
    return MeasuredModel(inner, other, trained, full, dtype, setup, document, one, two, logits)


def build_meta_model(
    architecture: PretrainedConfig, adapter: AdapterConfig, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> tuple[nn.Module, int, int]:
    """Build the model with its adapter on torch's meta device.

    The head is not an inner layer, because inner layers can be quantized. A tied head counts once. Trained stop rows
    and the adapter's initialization are left out, because they take no significant memory.

    Returns:
        The model, the number of parameters in inner linear layers, and that of all others.
    """
    with torch.device("meta"):
        base: PreTrainedModel = empty_model(architecture, trust_remote_code).to(dtype)  # pyright: ignore
        base.tie_weights()
        inner = sum(layer.weight.numel() for layer in inner_linears(base).values())
        total = sum(value.numel() for value in base.parameters())
        simplified = replace(
            adapter, init=Init.default, start_from=None, frozen_adapters=[], train_stop_token=TrainStopToken.never
        )
        return add_adapter(base, simplified, [], seed=0).model.train(), inner, total - inner
