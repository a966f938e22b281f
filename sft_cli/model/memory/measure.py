"""How much memory a run will need, before any weight is read.

Weights and trained parameters follow from formulas that can be checked by hand. The activations of a step are counted:
the model, with its adapter, runs forward and backward on fake tensors (shapes and types without contents) while every
live tensor is tracked. The overhead of a process was measured (``FRAGMENTATION``, ``PROCESS_OVERHEAD``). A CUDA context
is not counted here.
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
from sft_cli.model.load import empty_model, inner_linears, weights_dtype
from sft_cli.model.memory.estimate import MemoryEstimate
from sft_cli.model.memory.layer_memory import decoder_layers
from sft_cli.model.memory.logits_memory import logits_bytes
from sft_cli.model.memory.saved_activations import SavedBytes, count_saved_bytes, unknown_bytes
from sft_cli.model.quant import causal_lm

DEFAULT_DOCUMENT_TOKENS = 256
"""Tokens of a document, where no length is given."""
MAX_STATEFUL_TOKENS = 16
"""Tokens of the counted row for families that carry a state from token to token."""
FRAGMENTATION = {"cpu": 0.25, "cuda": 0.0}
"""Unused memory between the tensors of a step, as a share of the step's bytes: on a CPU, what glibc cannot return while
neighbouring blocks are in use. Fitted to the cases of scripts/bench/bench_memory.py; not measured on CUDA."""
PROCESS_OVERHEAD = {"cpu": 150 * 10**6, "cuda": 0}
"""Bytes of a process besides all tensors, for any model: on a CPU the kernels of oneDNN and MKL with their buffers, and
libraries loaded at first use. Fitted to the same cases, where it was 110 to 330 MB."""
FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Bytes of a 4-bit weight with a float32 scale per 64 weights."""
FOUR_BIT_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""


@dataclass(frozen=True)
class MeasuredModel:
    """Measurements of a model with its adapter; they give the memory of any micro-batch, storage and optimizer.

    Attributes:
        inner_parameters: Parameters of the layers that get quantised.
        other_parameters: All other parameters of the base.
        num_trained: Number of trained parameters.
        full: The base's own weights are trained.
        dtype: Type of the weights.
        setup: Device and compute type.
        document_tokens: Tokens of the measured document.
        one_document: What a row of one such document saves.
        two_documents: What a row of two saves; bytes grow linearly with the documents, but do not start at zero.
        logits: Bytes by the positions of a chunk.
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
            quant: Storage of the frozen weights; a checkpoint that is quantised already counts as unquantised.
            speed: Its chunk of logits.
            loss: A KL term keeps a frozen copy of weights that are themselves trained.
            tokens: Tokens of a micro-batch.
            optimizer_bytes: Bytes that the optimizer and an average keep for each trained parameter: 8 for AdamW alone.
        """
        width, copies = (self.dtype.itemsize, 1 + (loss.kl > 0)) if self.full else (4, 1)
        outer = int(self.other_parameters * self.dtype.itemsize)
        if self.full:
            weights = (self.inner_parameters + self.other_parameters - self.num_trained) * width
            layers = self.inner_parameters * width
        else:
            layers = int(self.inner_parameters * bytes_per_frozen_weight(quant, self.dtype.itemsize))
            weights = layers + outer
        kept = self.one_document.interpolate(self.two_documents, tokens / self.document_tokens - 1)
        return MemoryEstimate(
            weights=weights,
            parameters=self.num_trained * width * copies,
            gradients=self.num_trained * width,
            optimizer_state=int(self.num_trained * optimizer_bytes),
            logits=self.logits(min(speed.logits_chunk, tokens)),
            saved=kept,
            num_trained=self.num_trained,
            largest_layer=layers // max(1, len(kept.layers)),
            outer_weights=outer,
            fragmentation=FRAGMENTATION[self.setup.device.type],
            process_overhead=PROCESS_OVERHEAD[self.setup.device.type],
        )


def bytes_per_frozen_weight(quant: QuantConfig, width: int) -> float:
    """Return the bytes per parameter of a frozen linear layer; ``width`` is that of an unquantised weight."""
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
        model: How it is loaded.
        quant: Storage of the frozen weights.
        adapter: What is trained.
        speed: Its fused layers, packing and chunk of logits.
        loss: The objective.
        tokens: Tokens of a micro-batch.
        setup: Device and compute type.
        optimizer_bytes: Bytes that the optimizer and an average keep for each trained parameter.
        document: Tokens of a document; None means ``DEFAULT_DOCUMENT_TOKENS``.
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
    """Run the model, with its adapter, forward and backward on fake tensors.

    Args:
        architecture: The model's own configuration.
        model: How it is loaded.
        adapter: What is trained.
        speed: Its fused layers, and whether rows hold several examples.
        loss: The objective.
        setup: Device and compute type.
        document: Tokens of a document; attention on a CPU saves more for longer ones.
        keys_per_token: See ``count_saved_bytes``.
    """
    full = adapter.kind in WHOLE
    dtype = weights_dtype(model, full, setup.dtype)
    adapted, inner, other = build_meta_model(architecture, adapter, dtype, trust_remote_code=model.trust_remote_code)
    trained = sum(prod(value.shape) for value in adapted.parameters() if value.requires_grad)
    packed = speed.packing and adapter.kind not in VIRTUAL
    if causal_lm(adapted)._is_stateful:
        packed, document = False, min(document, MAX_STATEFUL_TOKENS)  # step after step, each an operation
    rows = ([document], [document] * 2) if packed else ([document], [document * 2])
    shared = keys_per_token if packed else 1.0
    num_layers = len(decoder_layers(adapted))
    try:
        one, two = count_saved_bytes(adapted, rows, setup, fused=speed.fused, packed=packed, keys_per_token=shared)
    except Exception as error:  # code of any model: some of it reads values, which fake tensors lack; the run goes on
        one = two = unknown_bytes(num_layers, error)
    logits = logits_bytes(adapted, setup, loss)
    return MeasuredModel(inner, other, trained, full, dtype, setup, document, one, two, logits)


def build_meta_model(
    architecture: PretrainedConfig, adapter: AdapterConfig, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> tuple[nn.Module, int, int]:
    """Build the model with its adapter on torch's meta device.

    The head is not an inner layer, because inner ones get quantised. A tied head counts once. Stop rows and the
    adapter's initialisation do not matter here.

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
