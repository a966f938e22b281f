"""How much memory a run will need, before any weight is read.

Weights, trained parameters and logits are formulas one can check by hand. What a forward pass keeps for the backward
pass is counted: the model, with its adapter, runs on tensors that have shapes and types but no contents. Gradients on
their way through a layer are not: by then the logits, which are larger, are gone. What lies unused between tensors is
no formula but a measured share (``SPREAD``). A CUDA context (about 1 GiB) is not counted.
"""

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_cli.config.adapter_schema import WHOLE, AdapterConfig, Init, QuantConfig, QuantKind, StopRow
from sft_cli.config.schema import ModelConfig
from sft_cli.config.trainer_schema import Checkpointing, LossConfig, TrainerConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.load import empty_model, inner_linears, weights_dtype
from sft_cli.model.machine import Machine
from sft_cli.model.memory.kept import Kept, kept_by_layers

FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Four bits and a float32 scale per 64 weights."""
FOUR_BIT_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""
SHORT, LONG = 128, 256
"""Tokens of the two counted rows: bytes grow in a straight line with the tokens, but do not begin at zero."""
SPREAD = {"cpu": 0.6, "cuda": 0.0}
"""Memory that lies unused between the tensors of a step, as a share of its activations.

On a CPU it is what glibc cannot give back while neighbours live: a Llama of four 512 wide layers with LoRA, whose
tensors took 428 MB at most in float32 and 264 MB in bfloat16, grew the process by 709 and 408 MB. With pages of its own
for each large tensor (mallopt) it grew by 352 and 247 MB, and took twice the time in bfloat16. Not measured on CUDA.
"""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose.

    Attributes:
        weights: The frozen base weights.
        training: Trained parameters (an adapter's, or all), gradients, optimizer state, copies of them.
        logits: Logits of one chunk of trained positions and their gradient, in float32 beside the compute type.
        kept: What the forward pass of a micro-batch keeps for the backward pass, by decoder layer.
        trained: Number of trained parameters.
        spread: Share of the activations that lies unused between tensors.
    """

    weights: int
    training: int
    logits: int
    kept: Kept
    trained: int
    spread: float = 0.0

    @property
    def num_layers(self) -> int:
        """Decoder layers that can be recomputed."""
        return len(self.kept.layers)

    def activations(self, mode: Checkpointing, layers: int = 0) -> int:
        """Most bytes kept at a time when the first ``layers`` decoder layers are recomputed.

        A recomputed layer keeps its input, and all of its tensors while the backward pass is in it; by then what the
        layers behind it kept is gone.
        """
        largest = max(self.kept.layers, default=0)
        if mode is Checkpointing.offload:
            return self.kept.rest + 3 * self.kept.layer_input + largest  # two of them on their way, one last layer's
        spared = self.kept.layer_input + (self.kept.attention if mode is Checkpointing.selective else 0)
        layers = 0 if mode is Checkpointing.none else layers
        return self.kept.rest + layers * spared + max(sum(self.kept.layers[layers:]), largest)

    def resident(self, mode: Checkpointing, layers: int = 0) -> int:
        """What the activations take of the device's memory: themselves, and what lies unused between them."""
        return int(self.activations(mode, layers) * (1 + self.spread))

    def total(self, mode: Checkpointing, layers: int = 0) -> int:
        """The sum, in bytes."""
        return self.weights + self.training + self.logits + self.resident(mode, layers)


def estimate(
    architecture: PretrainedConfig,
    model: ModelConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    trainer: TrainerConfig,
    loss: LossConfig,
    *,
    tokens: int,
    machine: Machine,
    optimizer_bytes: float,
) -> MemoryEstimate:
    """Memory of a training step.

    Args:
        architecture: The model's own configuration.
        model: How it is loaded.
        quant: Storage of the frozen weights; a checkpoint that is quantised already is counted unquantised.
        adapter: What is trained.
        trainer: Its chunk of logits and fused layers.
        loss: A KL term keeps a frozen copy of weights that are themselves trained.
        tokens: Tokens of a micro-batch.
        machine: Compute type and device.
        optimizer_bytes: What the optimizer and an average keep for each trained parameter: 8 for AdamW alone.
    """
    whole = adapter.kind in WHOLE
    stored = weights_dtype(model, whole, machine.dtype)
    adapted, inner, other = shape_of(architecture, adapter, stored, trust_remote_code=model.trust_remote_code)
    trained = sum(prod(value.shape) for value in adapted.parameters() if value.requires_grad)
    width = stored.itemsize if whole else 4
    copies = 2
    if whole:
        weights = (inner + other - trained) * width
        copies += loss.kl > 0
    else:
        weights = int(inner * inner_bytes(quant, stored.itemsize) + other * stored.itemsize)
    fused = trainer.fused
    kept = kept_by_layers(adapted, (SHORT, LONG), machine, fused=fused)
    rate = (tokens - SHORT) / (LONG - SHORT)
    vocabulary = architecture.get_text_config().vocab_size
    return MemoryEstimate(
        weights=weights,
        training=int(trained * (width * copies + optimizer_bytes)),
        logits=min(trainer.logits_chunk, tokens) * vocabulary * (machine.dtype.itemsize + 2 * 4),
        kept=kept[0].towards(kept[1], rate),
        trained=trained,
        spread=SPREAD[machine.device.type],
    )


def shape_of(
    architecture: PretrainedConfig, adapter: AdapterConfig, stored: torch.dtype, *, trust_remote_code: bool = False
) -> tuple[nn.Module, int, int]:
    """The model with its adapter on torch's meta device, its parameters in inner linear layers, and all others.

    The head is not an inner layer: inner ones get quantised. A tied head counts once. Stop rows, and how an adapter
    begins, do not matter here.
    """
    with torch.device("meta"):
        base: PreTrainedModel = empty_model(architecture, trust_remote_code).to(stored)  # pyright: ignore
        base.tie_weights()
        inner = sum(layer.weight.numel() for layer in inner_linears(base).values())
        total = sum(value.numel() for value in base.parameters())
        plain = replace(adapter, init=Init.default, start_from=None, beneath=[], train_stop_row=StopRow.never)
        return add_adapter(base, plain, [], seed=0).model.train(), inner, total - inner


def inner_bytes(quant: QuantConfig, width: int) -> float:
    """Bytes per parameter of a frozen linear layer."""
    if quant.kind in (QuantKind.nf4, QuantKind.fp4):
        return FOUR_BIT_DOUBLE_BYTES if quant.double_quant else FOUR_BIT_BYTES
    return 1.0 if quant.kind is QuantKind.int8 else float(width)
