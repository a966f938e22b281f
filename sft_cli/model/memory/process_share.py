"""What one of several processes needs of a run's memory."""

from dataclasses import replace

from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind
from sft_cli.model.memory.estimate import MemoryEstimate


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
