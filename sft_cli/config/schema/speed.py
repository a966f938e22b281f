"""How fast, and in how much memory, a step is computed: the keys of ``speed``. Standard library only."""

from dataclasses import dataclass
from enum import Enum

from sft_cli.config.schema.fields import bounded


class Choice(str, Enum):
    """An exact optimisation: used where it is proven and pays, wherever it is proven, or not at all."""

    auto = "auto"
    always = "always"
    never = "never"


class Checkpointing(str, Enum):
    """What is computed again in the backward pass instead of being kept."""

    auto = "auto"
    none = "none"
    selective = "selective"
    layers = "layers"
    full = "full"
    offload = "offload"


@dataclass(kw_only=True)
class SpeedConfig:
    """Speed and memory. No key here changes what is learned: a run may be resumed with other values."""

    tokens_per_micro_batch: int = bounded(8192, ge=8)
    """Most tokens computed at once: the knob for memory. At least max_length, which is taken where it is larger."""
    gradient_checkpointing: Checkpointing = Checkpointing.auto
    """Recompute in the backward pass: none, selective (all but attention), layers (some), full, offload (full, kept in
    main memory); auto: as few layers as the free memory asks for."""
    checkpointed_layers: int | None = bounded(None, ge=1)
    """layers: how many of the decoder layers are recomputed."""
    share_prefixes: Choice = Choice.auto
    """Compute tokens with which examples of a micro-batch begin alike once; auto: where it saves 5% of the tokens."""
    packing: bool = True
    """Lay several examples in a row, where that is proven not to change them; false: one example per row."""
    fused: bool = True
    """Compute LoRA, norms, gated MLPs and the last block in cheaper forms of the same arithmetic."""
    kernels: Choice = Choice.auto
    """Fused Triton kernels of Liger on CUDA; auto: where liger-kernel is installed and knows the family."""
    logits_chunk: int = bounded(1024, ge=1)
    """Trained positions whose logits exist at once."""
    threads: int | None = bounded(None, ge=1)
    """Threads of a CPU run; null: OMP_NUM_THREADS, else the fastest number for a product of the model's sizes."""
