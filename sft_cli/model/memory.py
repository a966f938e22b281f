"""How much memory a run will need, by arithmetic, before any weight is read.

Every term is a formula one can check by hand. What a CUDA context and the allocator's slack take (about 1 GiB) is
not in it.
"""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from sft_cli.config.schema import AdapterConfig, AdapterKind, QuantConfig, QuantKind
from sft_cli.model.load import empty_model, inner_linears, stated
from sft_cli.model.quant import features

NF4_BYTES = 0.5 + 4 / 64
"""Four bits and a float32 scale per 64 weights."""
NF4_DOUBLE_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same with one byte per scale, and a float32 scale for 256 of those."""
SAVED_BY_LAYER = {"full": (13, 4), "lora": (10, 4), "lora-half": (21, 5)}
"""Tensors (of the hidden width, of the MLP's width) that one decoder layer keeps for backward, counted with
``saved_tensors_hooks`` on Llama layers: every weight trained; LoRA in float32; LoRA on half-precision weights, where
PEFT also keeps a float32 copy of each adapted layer's input."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose.

    Attributes:
        weights: The base weights.
        training: Trained parameters (an adapter's, or master weights), gradients, optimizer state.
        activations: What the forward pass of a micro-batch keeps for the backward pass.
        logits: Logits of one chunk of trained positions and their gradient, in float32 beside the compute type.
    """

    weights: int
    training: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.weights + self.training + self.activations + self.logits


@dataclass(frozen=True)
class Sizes:
    """Parameter counts of a model.

    Attributes:
        inner: In linear layers other than the head: what gets quantised and adapted.
        other: Embeddings, head (once, when tied), norms.
        adapted: Sum of in + out features over the adapted layers; times the rank it is the size of the adapter.
    """

    inner: int
    other: int
    adapted: int


def count(config: PretrainedConfig, adapter: AdapterConfig, *, trust_remote_code: bool = False) -> Sizes:
    """The sizes of a model that exists on torch's meta device only."""
    model = empty_model(config, trust_remote_code)
    model.tie_weights()
    linears = inner_linears(model)
    inner = sum(layer.weight.numel() for layer in linears.values())
    wanted = tuple(f".{name}" for name in adapter.target_modules)
    everything = adapter.target_modules == ["all-linear"]
    adapted = [layer for name, layer in linears.items() if everything or f".{name}".endswith(wanted)]
    total = sum(parameter.numel() for parameter in model.parameters())
    return Sizes(inner, total - inner, sum(sum(features(layer)) for layer in adapted))


def estimate(
    config: PretrainedConfig,
    quant: QuantConfig,
    adapter: AdapterConfig,
    *,
    tokens: int,
    dtype: torch.dtype,
    chunk: int,
    checkpointing: bool,
    optimizer_bytes: int = 8,
    trust_remote_code: bool = False,
) -> MemoryEstimate:
    """Memory of a training step.

    Args:
        config: The model's own configuration.
        quant: Storage of the frozen weights.
        adapter: The adapter; kind none trains every weight.
        tokens: Tokens of a micro-batch.
        dtype: Compute type, and the type of frozen weights.
        chunk: Trained positions whose logits exist at once.
        checkpointing: Decoder layers are recomputed in the backward pass.
        optimizer_bytes: Optimizer state per trained parameter: 8 for AdamW, 2 for 8-bit AdamW.
        trust_remote_code: As for loading.
    """
    sizes = count(config, adapter, trust_remote_code=trust_remote_code)
    full = adapter.kind is AdapterKind.none
    width = dtype.itemsize
    trained = sizes.inner + sizes.other if full else sizes.adapted * adapter.rank
    weights = 0.0 if full else sizes.inner * inner_bytes(quant, width) + sizes.other * width
    text = config.get_text_config()
    kind = "full" if full else "lora" if width == 4 else "lora-half"
    return MemoryEstimate(
        weights=int(weights),
        training=trained * (4 + 4 + optimizer_bytes),
        activations=activation_bytes(text, kind, tokens, width, checkpointing),
        logits=min(chunk, tokens) * text.vocab_size * (width + 2 * 4),
    )


def inner_bytes(quant: QuantConfig, width: int) -> float:
    """Bytes per parameter of a frozen linear layer."""
    if quant.kind is QuantKind.nf4:
        return NF4_DOUBLE_BYTES if quant.double_quant else NF4_BYTES
    return 1.0 if quant.kind is QuantKind.int8 else float(width)


def activation_bytes(text: PretrainedConfig, kind: str, tokens: int, width: int, checkpointing: bool) -> int:
    """Bytes kept for backward: every layer's tensors, or one layer's and every layer's input."""
    hidden, inner = SAVED_BY_LAYER[kind]
    # Families that name the MLP's width otherwise (GPT-2, OPT, Falcon) make it four times the hidden width.
    mlp = stated(text, "intermediate_size") or 4 * text.hidden_size
    layer = hidden * text.hidden_size + inner * mlp
    layers = text.num_hidden_layers
    kept = layer + layers * text.hidden_size if checkpointing else layers * layer
    return tokens * width * kept
