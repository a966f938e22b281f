"""The estimated memory of a training step, and its share of one process."""

from dataclasses import dataclass, replace

from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind
from sft_cli.config.schema.speed import Checkpointing
from sft_cli.model.memory.saved_activations import SavedBytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose.

    Attributes:
        weights: The frozen base weights.
        parameters: Trained parameters: an adapter's, or all; with the frozen copy of a KL term.
        gradients: Their gradients.
        optimizer_state: What the optimizer and a weight average keep for them.
        logits: Logits of one chunk of trained positions and their gradient, in float32 and in the compute type.
        saved: What the forward pass of a micro-batch saves for the backward pass, by decoder layer.
        num_trained: Number of trained parameters.
        largest_layer: Weights of the largest decoder layer, which FSDP gathers to compute it.
        outer_weights: Weights outside of the layers: embeddings, head, last norm.
        fragmentation: Unused memory between tensors, as a share of the step's bytes.
        process_overhead: Bytes of a process besides its tensors.
        gathered: Weights that FSDP has gathered at the same time.
    """

    weights: int
    parameters: int
    gradients: int
    optimizer_state: int
    logits: int
    saved: SavedBytes
    num_trained: int
    largest_layer: int = 0
    outer_weights: int = 0
    fragmentation: float = 0.0
    process_overhead: int = 0
    gathered: int = 0

    @property
    def training(self) -> int:
        """Trained parameters, gradients and optimizer state."""
        return self.parameters + self.gradients + self.optimizer_state

    @property
    def num_layers(self) -> int:
        """Number of decoder layers that can be recomputed."""
        return len(self.saved.layers)

    def activations(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the most saved bytes at a time when the first ``layers`` decoder layers are recomputed.

        A recomputed layer saves its input, and all of its tensors during its backward pass, when those of later layers
        are already freed.
        """
        largest = max(self.saved.layers, default=0)
        if mode is Checkpointing.offload:
            return self.saved.rest + 3 * self.saved.layer_input + largest  # two of them on their way, one last layer's
        spared = self.saved.layer_input + (self.saved.attention if mode is Checkpointing.selective else 0)
        layers = 0 if mode is Checkpointing.none else layers
        return self.saved.rest + layers * spared + max(sum(self.saved.layers[layers:]), largest)

    def transient(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the bytes on top of the activations at the peak: logits, or gradients in flight through a layer.

        While the logits exist, no layer is recomputed: the memory for the recomputation is free for them.
        """
        spared = self.saved.layer_input + (self.saved.attention if mode is Checkpointing.selective else 0)
        recomputed = 0 if mode is Checkpointing.none else layers
        if mode is Checkpointing.offload:
            held = self.saved.rest + 3 * self.saved.layer_input
        else:
            held = self.saved.rest + recomputed * spared + sum(self.saved.layers[recomputed:])
        return max(self.saved.transient, held + self.logits - self.activations(mode, layers))

    def overhead(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the bytes of a process besides its tensors."""
        step_bytes = self.activations(mode, layers) + self.transient(mode, layers)
        return int(step_bytes * self.fragmentation) + self.process_overhead

    def total(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the sum, in bytes."""
        step_bytes = self.activations(mode, layers) + self.transient(mode, layers)
        return self.weights + self.training + self.gathered + step_bytes + self.overhead(mode, layers)


def shard_estimate(estimate: MemoryEstimate, config: DistributedConfig, processes: int) -> MemoryEstimate:
    """Return the estimate for one of several processes: FSDP shards weights, gradients and state, and gathers layers.

    Embeddings and head stay gathered through a step, and so do the current and the next layer; all layers do where
    ``distributed.reshard`` is off.
    """
    shards = processes // config.replicas
    if config.kind is DistributedKind.ddp or shards < 2:
        return estimate
    layers = estimate.largest_layer * (2 if config.reshard else max(2, estimate.num_layers))
    share = 0.0 if config.cpu_offload else 1 / shards
    return replace(
        estimate,
        weights=int(estimate.weights * share),
        parameters=int(estimate.parameters * share),
        gradients=int(estimate.gradients * share),
        optimizer_state=int(estimate.optimizer_state * share),
        gathered=layers + estimate.outer_weights,
    )
