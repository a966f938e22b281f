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

from sft_cli.config.adapter_schema import VIRTUAL, WHOLE, AdapterConfig, Init, QuantConfig, QuantKind, StopRow
from sft_cli.config.launcher_schema import DistributedConfig, DistributedKind
from sft_cli.config.schema import ModelConfig
from sft_cli.config.trainer_schema import Checkpointing, LossConfig, TrainerConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.load import empty_model, inner_linears, weights_dtype
from sft_cli.model.machine import Machine
from sft_cli.model.memory.head import head_bytes
from sft_cli.model.memory.kept import Kept, kept_by_layers

FOUR_BIT_BYTES = 0.5 + 4 / 64
"""Four bits and a float32 scale per 64 weights."""
FOUR_BIT_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""
DOCUMENT = 256
"""Tokens of a document, where it is not said."""
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
        values: Trained parameters: an adapter's, or all; with the copy that a KL term holds to.
        gradients: Theirs.
        state: What the optimizer and an average keep of them.
        logits: Logits of one chunk of trained positions and their gradient, in float32 beside the compute type.
        kept: What the forward pass of a micro-batch keeps for the backward pass, by decoder layer.
        trained: Number of trained parameters.
        largest: Weights of the largest decoder layer, which fsdp gathers to compute it.
        outer: Weights outside of the layers: embeddings, head, last norm.
        spread: Share of the activations that lies unused between tensors.
        gathered: Weights that fsdp holds whole while they are computed with.
    """

    weights: int
    values: int
    gradients: int
    state: int
    logits: int
    kept: Kept
    trained: int
    largest: int = 0
    outer: int = 0
    spread: float = 0.0
    gathered: int = 0

    @property
    def training(self) -> int:
        """Trained parameters, gradients, optimizer state."""
        return self.values + self.gradients + self.state

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

    def passing(self, mode: Checkpointing, layers: int = 0) -> int:
        """What comes on top of the activations at the peak: logits, or gradients on their way through a layer.

        While the logits exist, no layer is computed again: what a recomputed layer keeps meanwhile is room for them.
        """
        spared = self.kept.layer_input + (self.kept.attention if mode is Checkpointing.selective else 0)
        recomputed = 0 if mode is Checkpointing.none else layers
        if mode is Checkpointing.offload:
            held = self.kept.rest + 3 * self.kept.layer_input
        else:
            held = self.kept.rest + recomputed * spared + sum(self.kept.layers[recomputed:])
        return max(self.kept.passing, held + self.logits - self.activations(mode, layers))

    def slack(self, mode: Checkpointing, layers: int = 0) -> int:
        """What lies unused between the activations."""
        return self.resident(mode, layers) - self.activations(mode, layers)

    def total(self, mode: Checkpointing, layers: int = 0) -> int:
        """The sum, in bytes."""
        return self.weights + self.training + self.gathered + self.passing(mode, layers) + self.resident(mode, layers)


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
    document: int | None = None,
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
        document: Tokens of a document; attention on a CPU keeps more of longer ones.
        optimizer_bytes: What the optimizer and an average keep for each trained parameter: 8 for AdamW alone.
    """
    whole = adapter.kind in WHOLE
    stored = weights_dtype(model, whole, machine.dtype)
    adapted, inner, other = shape_of(architecture, adapter, stored, trust_remote_code=model.trust_remote_code)
    trained = sum(prod(value.shape) for value in adapted.parameters() if value.requires_grad)
    width = stored.itemsize if whole else 4
    copies = 1
    if whole:
        weights = (inner + other - trained) * width
        copies += loss.kl > 0
    else:
        weights = int(inner * inner_bytes(quant, stored.itemsize) + other * stored.itemsize)
    outer = int(other * stored.itemsize)
    size = min(tokens, document or DOCUMENT)
    packed = trainer.packing and adapter.kind not in VIRTUAL
    number = max(1, tokens // size) if packed else 1
    # Bytes grow in a straight line with the documents, but do not begin at zero.
    one, two = kept_by_layers(adapted, ([size], [size] * 2), machine, fused=trainer.fused, packed=packed)
    kept = one.towards(two, tokens / size - 1) if packed or number > 1 else one
    return MemoryEstimate(
        weights=weights,
        values=trained * width * copies,
        gradients=trained * width,
        state=int(trained * optimizer_bytes),
        logits=head_bytes(adapted, min(trainer.logits_chunk, tokens), machine, loss),
        kept=kept,
        trained=trained,
        largest=int((weights + trained * width - outer) / max(1, len(kept.layers))),
        outer=outer,
        spread=SPREAD[machine.device.type],
    )


def sharded(memory: MemoryEstimate, config: DistributedConfig, processes: int) -> MemoryEstimate:
    """What one of several processes needs: under fsdp a part of weights, gradients and state, and what it gathers.

    The embeddings and the head stay gathered through a step, the layer that is computed and the next one with them; all
    of them where ``distributed.reshard`` is off.
    """
    parts = processes // config.replicas
    if config.kind is DistributedKind.ddp or parts < 2:
        return memory
    layers = memory.largest * (2 if config.reshard else max(2, memory.num_layers))
    kept = 0.0 if config.cpu_offload else 1 / parts
    return replace(
        memory,
        weights=int(memory.weights * kept),
        values=int(memory.values * kept),
        gradients=int(memory.gradients * kept),
        state=int(memory.state * kept),
        gathered=layers + memory.outer,
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
