"""Data parallelism: each process holds the whole model, or a shard of every tensor (torch's FSDP2).

Gradients are sums over processes, never means: the divisor of a step's loss is part of its targets' weights.

For whole models, torch's DistributedDataParallel is not used. Its hooks expect the same parameters to get a gradient in
every process, and start to exchange gradients while other processes may still run out of memory. Here, gradients are
exchanged once per step, after everything that can fail, so that the step can be repeated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import call
from typing import Any, TypeVar

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
from sft_cli.distributed.process_group import World
from sft_cli.distributed.rank_env import rank_from_env
from sft_cli.errors import SftError
from sft_cli.model.memory.layer_memory import decoder_layers
from sft_cli.train.checkpoints.sharded_tensors import full_tensor
from sft_cli.train.optimizers.param_groups import trained_parameters

T = TypeVar("T")

BUCKET_BYTES = 2**26
"""Bytes of gradients per all-reduce."""


class FsdpRoot(nn.Module):
    """The root module for FSDP2: its forward calls any function while the model's outer weights are gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        """Call ``work`` and return its result."""
        return work()


@dataclass(frozen=True)
class ParallelModel:
    """How the processes of a run share the computation of the model.

    Attributes:
        world: The processes of the run.
        fsdp_root: The root module of a sharded model; None if each process holds the whole model.
        reshard: Whether gathered weights are freed after the forward pass.
    """

    world: World = field(default_factory=World)
    fsdp_root: FsdpRoot | None = None
    reshard: bool = True

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a shard of the model."""
        return self.fsdp_root is not None

    def describe(self, model: nn.Module) -> str:
        """Return a line for the log about the part of the model that each process holds."""
        size = self.world.size
        if not self.is_sharded:
            return f"{size} processes, each holds the whole model (DDP); gradients are summed once a step"
        held, full = 0, 0
        for parameter in model.parameters():
            held += parameter.to_local().nbytes if isinstance(parameter, DTensor) else parameter.nbytes
            full += parameter.nbytes
        return f"{size} processes, each holds a shard of every tensor (FSDP2): {gib(held)} of {gib(full)}"

    @property
    def run(self) -> Callable[[Callable[[], T]], T]:
        """A function that calls another one, which computes with the model: directly, or through the FSDP root.

        Every process must run the same layers in the same order.
        """
        return call if self.fsdp_root is None else self.fsdp_root

    @property
    def forward(self) -> Callable[..., Any]:
        """A function that returns ``model(**kwargs)`` for a model and its arguments; every process must call it."""
        return call if self.fsdp_root is None else self._sharded_forward

    def _sharded_forward(self, model: nn.Module, **kwargs: Any) -> Any:
        """Return ``model(**kwargs)`` with gathered weights."""
        return self.run(partial(model, **kwargs))

    def run_inference(self, work: Callable[[], T]) -> T:
        """Run ``work`` without a backward pass after it: gathered weights are freed at the end."""
        result = self.run(work)
        for module in self.fsdp_root.modules() if self.fsdp_root is not None else ():
            if isinstance(module, FSDPModule):
                module.reshard()
        return result

    @contextmanager
    def last_layer_unsharded(self, model: nn.Module) -> Iterator[None]:
        """Keep the weights of the last layer gathered inside the block, so that its modules can be called directly.

        The block must be inside ``run``.
        """
        if not self.is_sharded:
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

    def all_reduce_gradients(self, model: nn.Module) -> None:
        """Sum the gradient of every trained parameter over the processes; FSDP2 does it for sharded parameters.

        A missing gradient counts as zero if another process has one, and otherwise stays missing.
        """
        if not self.world.is_distributed or self.is_sharded:
            return
        trained = [parameter for _, parameter in trained_parameters(model)]
        has_gradient = self.world.all_reduce_max([int(parameter.grad is not None) for parameter in trained])
        gradients = list[Tensor]()
        for parameter, present in zip(trained, has_gradient, strict=True):
            if present and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = self.world.all_reduce_sum(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def clip_grad_norm(self, accelerator: Accelerator, model: nn.Module, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm of at most ``max_norm`` and return their norm before, a local scalar."""
        trained = [parameter for _, parameter in trained_parameters(model)]
        if not self.is_sharded:
            norm = accelerator.clip_grad_norm_(trained, max_norm)
            assert isinstance(norm, Tensor)
            return norm
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
        return norm


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group the tensors by type into buckets of about ``BUCKET_BYTES``."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket, size = list[Tensor](), 0
        for tensor in tensors:
            if tensor.dtype is dtype:
                bucket.append(tensor)
                size += tensor.numel() * tensor.element_size()
                if size >= BUCKET_BYTES:
                    yield bucket
                    bucket, size = [], 0
        if bucket:
            yield bucket


def parallelize(model: nn.Module, config: DistributedConfig, world: World, device: torch.device) -> ParallelModel:
    """Broadcast rank 0's trained weights, or shard the model over the processes.

    Args:
        model: The model; the same on every rank, except for random initial values.
        config: The settings of ``distributed``.
        world: The processes of the run.
        device: The device of this process.

    Raises:
        SftError: The model cannot be sharded, or not over this number of processes.
    """
    if not world.is_distributed:
        return ParallelModel(world)
    if config.kind is DistributedKind.ddp:
        for _, parameter in trained_parameters(model):
            torch.distributed.broadcast(parameter.detach(), src=0)
        return ParallelModel(world)
    layers = decoder_layers(model)
    if not layers:
        raise SftError(
            where="distributed.kind=fsdp",
            problem=f"the decoder layers of {type(model).__name__} were not found, so it cannot be sharded by layer",
            fix="distributed=ddp",
        )
    if config.cpu_offload and device.type == "cpu":
        say("warning: distributed.cpu_offload has no effect on a CPU, where everything is in main memory")
    mesh = _mesh(config, world, device)
    policy = CPUOffloadPolicy() if config.cpu_offload and device.type == "cuda" else OffloadPolicy()
    fsdp_root = FsdpRoot(model)
    for module in [*layers, fsdp_root]:
        fully_shard(module, mesh=mesh, reshard_after_forward=config.reshard, offload_policy=policy)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sums
    return ParallelModel(world, fsdp_root, config.reshard)


def loading_device(config: Config, device: torch.device) -> torch.device:
    """Return the device to load weights to: the CPU under FSDP, because the whole model may not fit on a GPU.

    Quantized weights are small and are loaded to the GPU.
    """
    is_fsdp = rank_from_env().world_size > 1 and config.distributed.kind is DistributedKind.fsdp
    return torch.device("cpu") if is_fsdp and config.quant.kind is QuantKind.none else device


@contextmanager
def gathered_weights(model: nn.Module, parallel: ParallelModel) -> Iterator[None]:
    """Replace sharded parameters by whole tensors on the CPU of rank 0 inside the block, for export.

    Every process must enter the block.
    """
    if not parallel.is_sharded:
        yield
        return
    parts = list[tuple[nn.Module, str, nn.Parameter]]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor) and (parameter.requires_grad or isinstance(model, PreTrainedModel)):
                parts.append((module, name, parameter))
    gathered: dict[int, nn.Parameter] = {}
    for module, name, parameter in parts:
        if id(parameter) not in gathered:
            full = full_tensor(parameter.detach()).cpu() if parallel.world.is_main else _join_gather(parameter)
            gathered[id(parameter)] = nn.Parameter(full, requires_grad=parameter.requires_grad)
        module.register_parameter(name, gathered[id(parameter)])
    try:
        yield
    finally:
        for module, name, parameter in parts:
            module.register_parameter(name, parameter)


def _join_gather(parameter: nn.Parameter) -> Tensor:
    """Take part in gathering a tensor for rank 0 without keeping it."""
    full_tensor(parameter.detach())
    return torch.empty(0)


def _mesh(config: DistributedConfig, world: World, device: torch.device) -> DeviceMesh:
    """Return a mesh of one group of all processes, or of ``replicas`` groups."""
    size, replicas = world.size, config.replicas
    if size % replicas:
        raise SftError(
            where=f"distributed.replicas={replicas}",
            problem=f"{size} processes cannot be divided into {replicas} groups of the same size",
            fix=f"distributed.replicas=1, or another number that divides {size}",
        )
    if replicas == 1:
        return init_device_mesh(device.type, (size,))
    return init_device_mesh(device.type, (replicas, size // replicas), mesh_dim_names=("replicas", "parts"))
