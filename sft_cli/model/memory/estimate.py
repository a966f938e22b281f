"""How much memory a run will need, before any weight is read.

Weights and trained parameters are formulas one can check by hand. What a step makes is counted: the model, with its
adapter, runs forward and backward on tensors that have shapes and types but no contents, while every tensor that lives
is watched. What a process takes beside its tensors is no formula but measured (``SPREAD``, ``PROCESS``). A CUDA context
is not counted here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_cli.config.schema.adapter import VIRTUAL, WHOLE, AdapterConfig, Init, QuantConfig, TrainStopToken
from sft_cli.config.schema.config import ModelConfig
from sft_cli.config.schema.speed import Checkpointing, SpeedConfig
from sft_cli.config.schema.trainer import LossConfig
from sft_cli.model.adapter.add import add_adapter
from sft_cli.model.device import Machine
from sft_cli.model.load import empty_model, inner_linears, weights_dtype
from sft_cli.model.memory.logits_memory import head_bytes
from sft_cli.model.memory.saved_activations import Kept, kept_by_layers
from sft_cli.model.quant import causal_lm, inner_bytes

DOCUMENT = 256
"""Tokens of a document, where it is not said."""
STATEFUL = 16
"""Tokens of the row that is counted of families that carry a state from token to token."""
SPREAD = {"cpu": 0.25, "cuda": 0.0}
"""Memory that lies unused between the tensors of a step, as a share of what a step makes: on a CPU what glibc cannot
give back while neighbours live. Fitted to the cases of scripts/bench/bench_memory.py; not measured on CUDA."""
PROCESS = {"cpu": 150 * 10**6, "cuda": 0}
"""What a process takes beside all tensors, whatever the model's size: on a CPU the kernels of oneDNN and MKL with their
buffers, and libraries loaded at first use. Fitted to the same cases, where it was 110 to 330 MB."""


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
        spread: Share of what a step makes that lies unused between tensors.
        process: What a process takes beside its tensors whatever they are.
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
    process: int = 0
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
        """What a process takes beside its tensors."""
        made = self.activations(mode, layers) + self.passing(mode, layers)
        return int(made * self.spread) + self.process

    def total(self, mode: Checkpointing, layers: int = 0) -> int:
        """The sum, in bytes."""
        made = self.activations(mode, layers) + self.passing(mode, layers)
        return self.weights + self.training + self.gathered + made + self.slack(mode, layers)


@dataclass(frozen=True)
class Counted:
    """What was counted of a model with its adapter; the memory of any micro-batch, storage and optimizer follows.

    Attributes:
        inner: Parameters of the layers that get quantised.
        other: All other parameters of the base.
        trained: Number of trained parameters.
        whole: The base's own weights are trained.
        stored: Type of the weights.
        machine: Device and compute type.
        size: Tokens of the counted document.
        one: What a row of one such document leaves.
        two: What a row of two leaves; bytes grow in a straight line with the documents, but do not begin at zero.
        logits: Bytes by the positions of a chunk.
    """

    inner: int
    other: int
    trained: int
    whole: bool
    stored: torch.dtype
    machine: Machine
    size: int
    one: Kept
    two: Kept
    logits: Callable[[int], int]

    def memory(
        self, quant: QuantConfig, speed: SpeedConfig, loss: LossConfig, *, tokens: int, optimizer_bytes: float
    ) -> MemoryEstimate:
        """Memory of a training step.

        Args:
            quant: Storage of the frozen weights; a checkpoint that is quantised already is counted unquantised.
            speed: Its chunk of logits.
            loss: A KL term keeps a frozen copy of weights that are themselves trained.
            tokens: Tokens of a micro-batch.
            optimizer_bytes: What the optimizer and an average keep for each trained parameter: 8 for AdamW alone.
        """
        width, copies = (self.stored.itemsize, 1 + (loss.kl > 0)) if self.whole else (4, 1)
        outer = int(self.other * self.stored.itemsize)
        if self.whole:
            weights = (self.inner + self.other - self.trained) * width
            layers = self.inner * width
        else:
            layers = int(self.inner * inner_bytes(quant, self.stored.itemsize))
            weights = layers + outer
        kept = self.one.towards(self.two, tokens / self.size - 1)
        return MemoryEstimate(
            weights=weights,
            values=self.trained * width * copies,
            gradients=self.trained * width,
            state=int(self.trained * optimizer_bytes),
            logits=self.logits(min(speed.logits_chunk, tokens)),
            kept=kept,
            trained=self.trained,
            largest=layers // max(1, len(kept.layers)),
            outer=outer,
            spread=SPREAD[self.machine.device.type],
            process=PROCESS[self.machine.device.type],
        )


def estimate(
    architecture: PretrainedConfig,
    model: ModelConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    speed: SpeedConfig,
    loss: LossConfig,
    *,
    tokens: int,
    machine: Machine,
    optimizer_bytes: float,
    document: int | None = None,
) -> MemoryEstimate:
    """Memory of a training step; see ``count`` and ``Counted.memory`` for what decides it."""
    size = min(tokens, document or DOCUMENT)
    counted = count(architecture, model, adapter, speed, loss, machine=machine, document=size)
    return counted.memory(quant, speed, loss, tokens=tokens, optimizer_bytes=optimizer_bytes)


def count(
    architecture: PretrainedConfig,
    model: ModelConfig,
    adapter: AdapterConfig,
    speed: SpeedConfig,
    loss: LossConfig,
    *,
    machine: Machine,
    document: int,
) -> Counted:
    """Run the model, with its adapter, on tensors without contents, forward and backward.

    Args:
        architecture: The model's own configuration.
        model: How it is loaded.
        adapter: What is trained.
        speed: Its fused layers, and whether rows hold several examples.
        loss: The objective.
        machine: Compute type and device.
        document: Tokens of a document; attention on a CPU keeps more of longer ones.
    """
    whole = adapter.kind in WHOLE
    stored = weights_dtype(model, whole, machine.dtype)
    adapted, inner, other = shape_of(architecture, adapter, stored, trust_remote_code=model.trust_remote_code)
    trained = sum(prod(value.shape) for value in adapted.parameters() if value.requires_grad)
    packed = speed.packing and adapter.kind not in VIRTUAL
    if causal_lm(adapted)._is_stateful:
        packed, document = False, min(document, STATEFUL)  # step after step, each an operation
    rows = ([document], [document] * 2) if packed else ([document], [document * 2])
    one, two = kept_by_layers(adapted, rows, machine, fused=speed.fused, packed=packed)
    logits = head_bytes(adapted, machine, loss)
    return Counted(inner, other, trained, whole, stored, machine, document, one, two, logits)


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
        plain = replace(
            adapter, init=Init.default, start_from=None, frozen_adapters=[], train_stop_token=TrainStopToken.never
        )
        return add_adapter(base, plain, [], seed=0).model.train(), inner, total - inner
