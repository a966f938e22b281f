"""The estimated memory of a training step, in all and in one of several processes."""

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
        optimizer_state: State of the optimizer and of a weight average for them.
        logits: Logits of one chunk of trained positions and their gradient, in float32 and in the compute type.
        saved: Tensors that the forward pass of a micro-batch saves for the backward pass, by decoder layer.
        num_trained: Number of trained parameters.
        largest_layer: Weights of the largest decoder layer, which FSDP gathers to compute it.
        outer_weights: Weights outside of the layers: embeddings, head, last norm.
        fragmentation: Unused memory between tensors, as a fraction of the step's bytes.
        process_overhead: Memory of a process other than its tensors.
        gathered: Weights that FSDP gathers at the same time.
        block_mask: Memory to make the mask of flex attention, before the first layer.
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
    block_mask: int = 0

    @property
    def training(self) -> int:
        """Trained parameters, gradients and optimizer state."""
        return self.parameters + self.gradients + self.optimizer_state

    @property
    def num_layers(self) -> int:
        """Number of decoder layers that can be recomputed."""
        return len(self.saved.layers)

    def activations(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the peak of saved bytes if the first ``layers`` decoder layers are recomputed.

        A recomputed layer saves its input and, during its backward pass, all of its tensors, when those of later layers
        are already freed.
        """
        largest = max(self.saved.layers, default=0)
        if mode is Checkpointing.offload:
            return self.saved.rest + 3 * self.saved.layer_input + largest  # two in transfer, and that of the last layer
        kept_per_layer = self.saved.layer_input + (self.saved.attention if mode is Checkpointing.selective else 0)
        layers = 0 if mode is Checkpointing.none else layers
        return self.saved.rest + layers * kept_per_layer + max(sum(self.saved.layers[layers:]), largest)

    def transient(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the bytes in addition to the activations at the peak: logits, the gradients inside a layer, or a mask.

        While the logits exist, no layer is recomputed, so they can use the memory for the recomputation. While a mask
        is made, no layer has saved anything.
        """
        kept_per_layer = self.saved.layer_input + (self.saved.attention if mode is Checkpointing.selective else 0)
        recomputed = 0 if mode is Checkpointing.none else layers
        if mode is Checkpointing.offload:
            held = self.saved.rest + 3 * self.saved.layer_input
        else:
            held = self.saved.rest + recomputed * kept_per_layer + sum(self.saved.layers[recomputed:])
        others = max(held + self.logits, self.saved.rest + self.block_mask)
        return max(self.saved.transient, others - self.activations(mode, layers))

    def overhead(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the bytes of a process other than its tensors."""
        step_bytes = self.activations(mode, layers) + self.transient(mode, layers)
        return int(step_bytes * self.fragmentation) + self.process_overhead

    def total(self, mode: Checkpointing, layers: int = 0) -> int:
        """Return the sum of all parts, in bytes."""
        step_bytes = self.activations(mode, layers) + self.transient(mode, layers)
        return self.weights + self.training + self.gathered + step_bytes + self.overhead(mode, layers)


def shard_estimate(estimate: MemoryEstimate, config: DistributedConfig, processes: int) -> MemoryEstimate:
    """Return the estimate for one of several processes: FSDP shards weights, gradients and state, and gathers layers.

    Embeddings and head stay gathered during a step, and the current and the next layer are gathered at the same time;
    without ``distributed.reshard``, all layers are.
    """
    shards = processes // config.replicas
    if config.kind is DistributedKind.ddp or shards < 2:
        return estimate
    layers = estimate.largest_layer * (2 if config.reshard else max(2, estimate.num_layers))
    fraction = 0.0 if config.cpu_offload else 1 / shards
    return replace(
        estimate,
        weights=int(estimate.weights * fraction),
        parameters=int(estimate.parameters * fraction),
        gradients=int(estimate.gradients * fraction),
        optimizer_state=int(estimate.optimizer_state * fraction),
        gathered=layers + estimate.outer_weights,
    )
