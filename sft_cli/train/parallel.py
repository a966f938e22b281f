"""How the processes of a run compute one model: each holds all of it, or a part of every tensor (torch's FSDP2).

Gradients are sums over processes, never means: what a step's loss is divided by stands in its targets' weights.

Where each holds the model, DistributedDataParallel is not used. Its hooks expect the same parameters to get a gradient
in every process, and begin to exchange while others may still run out of memory; here everything that can go wrong in a
step has gone wrong before its one exchange, so that a step can be begun again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import call
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import DistributedConfig, DistributedKind
from sft_cli.console import gib, say
from sft_cli.distributed.process_group import Ranks
from sft_cli.distributed.rank_env import place_of
from sft_cli.errors import SftError
from sft_cli.model.memory.layer_memory import decoder_layers
from sft_cli.train.checkpoints.sharded_tensors import whole
from sft_cli.train.optimizers.param_groups import trained_parameters

T = TypeVar("T")

BUCKET = 2**26
"""Bytes of gradients exchanged at once."""


class Shell(nn.Module):
    """A module around the model whose forward does anything with it, while its outer weights are gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        """What the work gives."""
        return work()


@dataclass(frozen=True)
class Engine:
    """How this process computes with the model.

    Attributes:
        ranks: The processes of the run.
        shell: Around a model of which each process holds a part; None: each holds the whole.
        reshard: Whether gathered weights are given back after the forward pass.
    """

    ranks: Ranks = field(default_factory=Ranks)
    shell: Shell | None = None
    reshard: bool = True

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model."""
        return self.shell is not None

    def sentence(self, model: nn.Module) -> str:
        """What each process holds, for the log."""
        size = self.ranks.place.size
        if not self.sharded:
            return f"{size} processes, each holds the whole model (DDP); gradients are added up once a step"
        held, full = 0, 0
        for one in model.parameters():
            held += one.to_local().nbytes if isinstance(one, DTensor) else one.nbytes
            full += one.nbytes
        return f"{size} processes, each holds a part of every tensor (FSDP2): {gib(held)} of {gib(full)}"

    @property
    def run(self) -> Callable[[Callable[[], T]], T]:
        """Compute something with the model: a plain call, or one through the shell that gathers its parts.

        Every process must, and the same as far as layers are concerned.
        """
        return call if self.shell is None else self.shell

    def look(self, work: Callable[[], T]) -> T:
        """``run`` for what no backward pass follows, which would give the gathered weights back otherwise."""
        found = self.run(work)
        for module in self.shell.modules() if self.shell is not None else ():
            if isinstance(module, FSDPModule):
                module.reshard()
        return found

    @contextmanager
    def opened(self, model: nn.Module) -> Iterator[None]:
        """Within ``run``: the last layer's weights stay gathered, so that its modules can be called by themselves."""
        if not self.sharded:
            yield
            return
        layer = decoder_layers(model)[-1]
        assert isinstance(layer, FSDPModule)
        layer.set_reshard_after_forward(False)
        layer.unshard()
        try:
            yield
        finally:
            layer.set_reshard_after_forward(self.reshard)
            layer.reshard()

    def add_gradients(self, model: nn.Module) -> None:
        """Make every trained parameter's gradient the sum over the processes; sharded ones are that already.

        A parameter that got a gradient in some process only counts as zero in the others; one without any stays so.
        """
        if not self.ranks.several or self.sharded:
            return
        trained = [parameter for _, parameter in trained_parameters(model)]
        some = self.ranks.most([int(parameter.grad is not None) for parameter in trained])
        found = list[Tensor]()
        for parameter, present in zip(trained, some, strict=True):
            if present and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                found.append(parameter.grad)
        for bucket in _buckets(found):
            flat = self.ranks.summed(torch.cat([one.flatten() for one in bucket]))
            for one, summed in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                one.copy_(summed.view_as(one))

    def clip(self, accelerator: Accelerator, model: nn.Module, largest: float) -> Tensor:
        """Scale the gradients down to a norm of at most ``largest``; the norm before, a scalar of this process."""
        trained = [parameter for _, parameter in trained_parameters(model)]
        if not self.sharded:
            norm = accelerator.clip_grad_norm_(trained, largest)
            assert isinstance(norm, Tensor)
            return norm
        norm = torch.nn.utils.get_total_norm([one.grad for one in trained if one.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(trained, largest, norm)
        return norm


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, those of one type together, about ``BUCKET`` bytes at a time."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket, size = list[Tensor](), 0
        for tensor in tensors:
            if tensor.dtype is dtype:
                bucket.append(tensor)
                size += tensor.numel() * tensor.element_size()
                if size >= BUCKET:
                    yield bucket
                    bucket, size = [], 0
        if bucket:
            yield bucket


def make_engine(model: nn.Module, config: DistributedConfig, ranks: Ranks, device: torch.device) -> Engine:
    """Begin to compute together: everybody gets rank 0's trained weights, or everybody its part of all weights.

    Raises:
        SftError: The model, or the number of processes, cannot be split so.
    """
    if not ranks.several:
        return Engine(ranks)
    if config.kind is DistributedKind.ddp:
        for _, parameter in trained_parameters(model):
            torch.distributed.broadcast(parameter.detach(), src=0)
        return Engine(ranks)
    layers = decoder_layers(model)
    if not layers:
        raise SftError(
            where="distributed.kind=fsdp",
            problem=f"the layers of {type(model).__name__} are not known, so that they could be gathered one by one",
            fix="distributed=ddp",
        )
    if config.cpu_offload and device.type == "cpu":
        say("together  on a CPU everything is in main memory: distributed.cpu_offload changes nothing")
    mesh = _mesh(config, ranks, device)
    policy = CPUOffloadPolicy() if config.cpu_offload and device.type == "cuda" else OffloadPolicy()
    shell = Shell(model)
    for module in [*layers, shell]:
        fully_shard(module, mesh=mesh, reshard_after_forward=config.reshard, offload_policy=policy)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums
    return Engine(ranks, shell, config.reshard)


def loading_device(config: Config, device: torch.device) -> torch.device:
    """Where the weights are read to: main memory, if each process keeps a part only and the whole may not fit.

    Quantised weights are small, and are made on the card.
    """
    several = place_of().size > 1 and config.distributed.kind is DistributedKind.fsdp
    return torch.device("cpu") if several and config.quant.kind is QuantKind.none else device


@contextmanager
def gathered(model: nn.Module, engine: Engine) -> Iterator[None]:
    """What was trained as whole tensors in main memory, for the first process to write; every process must ask."""
    if not engine.sharded:
        yield
        return
    parts = list[tuple[nn.Module, str, nn.Parameter]]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor) and (parameter.requires_grad or isinstance(model, PreTrainedModel)):
                parts.append((module, name, parameter))
    known: dict[int, nn.Parameter] = {}
    for module, name, parameter in parts:
        if id(parameter) not in known:
            full = whole(parameter.detach()).cpu() if engine.ranks.first else _taken_part(parameter)
            known[id(parameter)] = nn.Parameter(full, requires_grad=parameter.requires_grad)
        module.register_parameter(name, known[id(parameter)])
    try:
        yield
    finally:
        for module, name, parameter in parts:
            module.register_parameter(name, parameter)


def _taken_part(parameter: nn.Parameter) -> Tensor:
    """Join in gathering what another process wants; nothing is kept."""
    whole(parameter.detach())
    return torch.empty(0)


def _mesh(config: DistributedConfig, ranks: Ranks, device: torch.device) -> DeviceMesh:
    """One group of all processes, or ``replicas`` of them."""
    size, replicas = ranks.place.size, config.replicas
    if size % replicas:
        raise SftError(
            where=f"distributed.replicas={replicas}",
            problem=f"{size} processes do not divide into {replicas} groups of the same size",
            fix=f"distributed.replicas=1, or another number that divides {size}",
        )
    if replicas == 1:
        return init_device_mesh(device.type, (size,))
    return init_device_mesh(device.type, (replicas, size // replicas), mesh_dim_names=("replicas", "parts"))
