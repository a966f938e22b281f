"""Faster LoRA layers: layers that read the same input are computed together, on PEFT's own modules and parameters.

Only the ``forward`` of the instances is replaced: names, parameters, saving, merging and generating do not change.
Without gradients, with a disabled or merged adapter, or with other arguments, a layer runs PEFT's own forward.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sft_cli.model.attention.packing import generation_mode
from sft_cli.model.device import compute_dtype
from sft_cli.model.quant import is_repacked
from sft_cli.model.speed.gated_mlp import ForwardTrace, GatedForward, OpRecorder, find_gated_blocks
from sft_cli.model.speed.lora_products import BaseLayer, FusedLoraFunction, is_4bit


@dataclass(frozen=True)
class FusionReport:
    """The numbers of fused and skipped LoRA layers.

    Attributes:
        layers: Number of fused LoRA layers.
        groups: Number of their groups; a layer that shares its input with no other layer is a group of one.
        skipped: Number of layers that keep PEFT's forward, by the reason.
    """

    layers: int
    groups: int
    skipped: Mapping[str, int]

    def __str__(self) -> str:
        """Return a clause for the log."""
        skipped = "; ".join(f"{count} keep PEFT's forward: {reason}" for reason, count in self.skipped.items())
        fused = f"{self.layers} LoRA layers in {self.groups} groups" if self.layers else "no LoRA layer"
        return f"{fused}; {skipped}" if skipped else fused


@dataclass
class LoraGroup:
    """LoRA layers that read the same input, in the order of their calls.

    The first layer computes all outputs; the others return theirs if they are called with the same tensor.

    Attributes:
        layers: PEFT's layers.
        adapter: Name of the adapter that they run.
        bases: The frozen layers that they wrap.
        pending: The input and its version, and the outputs by index that no layer has returned yet.
    """

    layers: tuple[Any, ...]
    adapter: str
    bases: tuple[BaseLayer, ...]
    pending: tuple[Tensor, int, dict[int, Tensor]] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Drop pending outputs from copies of the model."""
        return {**vars(self), "pending": None}

    def is_usable(self) -> bool:
        """Return whether all layers run exactly this adapter on an unchanged base."""
        return all(is_fusable(layer, self.adapter) for layer in self.layers)

    def output(self, index: int, x: Tensor) -> Tensor | None:
        """Return the output of a layer for ``x``; None if PEFT has to compute it."""
        if index:
            return self.take_pending(index, x)
        self.pending = None
        if not self.is_usable():
            return None
        first, *rest = self.compute(x)
        if rest:
            self.pending = (x, x._version, dict(enumerate(rest, start=1)))
        return first

    def take_pending(self, index: int, x: Tensor) -> Tensor | None:
        """Return the pending output of a layer, if it was computed for this input."""
        if self.pending is None:
            return None
        computed_for, version, outputs = self.pending
        if computed_for is not x or x._version != version or index not in outputs:
            return None
        output = outputs.pop(index)
        if not outputs:
            self.pending = None
        return output

    def compute(self, x: Tensor) -> Iterable[Tensor]:
        """Compute the outputs of all layers."""
        x = x.to(compute_dtype(x))
        scales = [layer.scaling[self.adapter] for layer in self.layers]
        downs = [layer.lora_A[self.adapter].weight for layer in self.layers]
        ups = [layer.lora_B[self.adapter].weight for layer in self.layers]
        outputs = FusedLoraFunction.apply(x, self.bases, scales, *downs, *ups)
        assert isinstance(outputs, tuple)
        return outputs


@dataclass
class FusedForward:
    """The ``forward`` of one layer of a group: the group's result, or PEFT's own."""

    group: LoraGroup
    index: int

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the result of the layer's own forward."""
        layer = self.group.layers[self.index]
        output = None
        if torch.is_grad_enabled() and not args and not kwargs:
            output = self.group.output(self.index, x)
        return type(layer).forward(layer, x, *args, **kwargs) if output is None else output


def is_fusable(layer: Any, adapter: str) -> bool:
    """Return whether the layer runs exactly this adapter on an unchanged base."""
    if layer.disable_adapters or layer.merged or layer.active_adapters != [adapter]:
        return False
    weight = layer.base_layer.weight
    return not weight.requires_grad and not is_repacked(weight)


def fuse_lora(model: nn.Module) -> FusionReport:
    """Fuse the LoRA layers of ``model``, in place; a second call starts from PEFT's layers again.

    Call it before DDP or FSDP wrap the model, in the precision of use; it runs one short forward pass.

    Args:
        model: A PEFT model, or a module that contains one.

    Returns:
        The numbers of fused and skipped layers.
    """
    from peft.tuners.lora import LoraLayer

    unfuse_lora(model)
    lora_layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    reasons = {name: fusion_blocker(layer) for name, layer in lora_layers.items()}
    fusable = {name: lora_layers[name] for name, reason in reasons.items() if reason is None}
    trace = trace_forward(model) if fusable else ForwardTrace()
    groups = group_by_input(trace, fusable)
    names = {id(layer): name for name, layer in fusable.items()}
    single = {names[id(group.layers[0])]: group for group in groups if len(group.layers) == 1}
    for block in find_gated_blocks(model, trace, single):
        block.block.forward = block
    for group in groups:
        for index, layer in enumerate(group.layers):
            layer.forward = FusedForward(group, index)
    return FusionReport(len(fusable), len(groups), Counter(reason for reason in reasons.values() if reason is not None))


def unfuse_lora(model: nn.Module) -> None:
    """Restore PEFT's own forward of every layer; do nothing if none is replaced."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), FusedForward | GatedForward):
            del module.forward


def fusion_blocker(layer: Any) -> str | None:
    """Return why a LoRA layer keeps PEFT's forward, as a clause; None if it can be fused."""
    from peft.tuners.lora import Linear

    base, active = layer.base_layer, layer.active_adapters
    if not (isinstance(layer, Linear) or type(layer).__name__ == "Linear4bit"):
        return f"{type(layer).__name__} is not a plain linear layer"
    if len(active) != 1 or active[0] not in layer.lora_A:
        return "several adapters, or none, are active"
    if active[0] in layer.lora_variant:
        return f"their adapter is a variant of LoRA ({type(layer.lora_variant[active[0]]).__name__})"
    if not isinstance(layer.lora_dropout[active[0]], nn.Identity):
        return "they have dropout"
    if layer.lora_bias[active[0]]:
        return "their adapter has a bias"
    if not is_plain_base(base):
        return f"their base is a {type(base).__name__}"
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "their base is trained too"
    parts = (base, layer.lora_A[active[0]], layer.lora_B[active[0]])
    if any(is_intercepted(part) for part in parts) or any(type(part) is not nn.Linear for part in parts[1:]):
        return "their modules have hooks or replaced forwards"
    return None


def is_plain_base(base: nn.Module) -> bool:
    """Return whether the output of a base layer depends only on its weight and bias."""
    if type(base) in (nn.Linear, Conv1D):
        return True
    weight = base.weight if "weight" in base._parameters else None
    return type(base).__name__ == "Linear4bit" and isinstance(weight, Tensor) and is_4bit(weight)


def is_intercepted(module: nn.Module) -> bool:
    """Return whether a module has a replaced forward or hooks, which would not run."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def group_by_input(trace: ForwardTrace, layers: Mapping[str, Any]) -> list[LoraGroup]:
    """Group the layers that the same parent calls with the same tensor, in the order of the calls."""
    by_input: dict[tuple[Any, ...], list[str]] = {}
    for name in trace.calls:
        if name in layers and (call := trace.single_call(name)) is not None:
            key = (name.rpartition(".")[0], id(call.input), layers[name].active_adapters[0])
            by_input.setdefault(key, []).append(name)
    single = [[name] for name in layers if trace.single_call(name) is None]
    return [make_group([layers[name] for name in names]) for names in [*by_input.values(), *single]]


def make_group(layers: Iterable[Any]) -> LoraGroup:
    """Build a group of PEFT's layers."""
    layers = tuple(layers)
    bases = tuple(BaseLayer(layer.base_layer, isinstance(layer.base_layer, Conv1D)) for layer in layers)
    return LoraGroup(layers, layers[0].active_adapters[0], bases)


def trace_forward(model: nn.Module) -> ForwardTrace:
    """Trace one forward pass of eight tokens."""
    trace = ForwardTrace()
    modules = model.named_modules()
    handles = [module.register_forward_hook(trace.make_hook(name), with_kwargs=True) for name, module in modules]
    try:
        with generation_mode(model) as lm, OpRecorder(trace):
            ids = torch.randint(lm.config.get_text_config().vocab_size, (1, 8), generator=torch.Generator())
            lm(input_ids=ids.to(lm.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return trace
