"""Schema of ``speed``: speed and memory of a step. Standard library only."""

from dataclasses import dataclass
from enum import Enum

from sft_cli.config.schema.fields import Auto, bounded


class Choice(str, Enum):
    """An exact optimization: used where it is proven and faster, wherever it is proven, or never."""

    auto = "auto"
    always = "always"
    never = "never"


class Checkpointing(str, Enum):
    """The parts that are recomputed in the backward pass instead of being stored."""

    auto = "auto"
    none = "none"
    selective = "selective"
    layers = "layers"
    full = "full"
    offload = "offload"


@dataclass(kw_only=True)
class SpeedConfig:
    """Speed and memory. No key here changes the trained model: a run may be resumed with other values."""

    tokens_per_micro_batch: Auto | int = bounded(Auto.auto, ge=8)
    """Most tokens computed at once, at least max_length: the main setting for memory; auto: as many as fit, up to all
    of a step."""
    gradient_checkpointing: Checkpointing = Checkpointing.auto
    """Recompute in the backward pass: none, selective (all but attention), layers (some), full, offload (full, stored
    in main memory); auto: as few layers as fit into the free memory."""
    checkpointed_layers: int | None = bounded(None, ge=1)
    """layers: number of decoder layers to recompute."""
    share_prefixes: Choice = Choice.auto
    """Compute the common first tokens of examples in a micro-batch once; auto: where it saves 5% of the tokens."""
    packing: bool = True
    """Pack several examples into a row, where this is proven not to change them; false: one example per row."""
    fused: bool = True
    """Compute LoRA, norms, gated MLPs and the last block in cheaper forms of the same arithmetic."""
    kernels: Choice = Choice.auto
    """Fused Triton kernels of Liger on CUDA; auto: where liger-kernel is installed and supports the family."""
    logits_chunk: int = bounded(1024, ge=1)
    """Trained positions whose logits are in memory at once."""
    threads: int | None = bounded(None, ge=1)
    """Threads of a CPU run; null: OMP_NUM_THREADS, else the fastest number for a product of the model's sizes."""
