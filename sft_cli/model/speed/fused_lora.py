"""Faster LoRA layers: those that read the same input are computed together, on PEFT's own modules and parameters.

Only ``forward`` of the layers is replaced, on the instances: names, parameters, saving, merging and generating stay
PEFT's. Without gradients, with the adapter disabled or merged, or called in any way that was not seen before, a layer
runs PEFT's own forward.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sft_cli.model.attention.packing import generating
from sft_cli.model.quant import repacked
from sft_cli.model.speed.gated_mlp import GatedForward, Seen, Watch, gated_blocks
from sft_cli.model.speed.lora_products import Base, Products, quantized


@dataclass(frozen=True)
class Fused:
    """What is computed together.

    Attributes:
        layers: Number of fused LoRA layers.
        groups: Number of groups they form; a layer whose input nobody else reads is a group of one.
        left: Layers that keep PEFT's forward, counted by the reason.
    """

    layers: int
    groups: int
    left: Mapping[str, int]

    def __str__(self) -> str:
        """One clause for the log."""
        kept = "; ".join(f"{count} keep PEFT's forward: {reason}" for reason, count in self.left.items())
        done = f"{self.layers} LoRA layers in {self.groups} groups" if self.layers else "no LoRA layer"
        return f"{done}; {kept}" if kept else done


@dataclass
class Group:
    """LoRA layers that read the same input, in the order in which they are called.

    The first one computes all; the others take their outputs while the input is still the same tensor.

    Attributes:
        layers: PEFT's layers.
        adapter: Name of the adapter they run.
        bases: The frozen layers under them.
        waiting: The input and its version, and the outputs by place that nobody took yet.
    """

    layers: tuple[Any, ...]
    adapter: str
    bases: tuple[Base, ...]
    waiting: tuple[Tensor, int, dict[int, Tensor]] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model waits for nothing."""
        return {**vars(self), "waiting": None}

    def usable(self) -> bool:
        """Whether all layers run exactly this adapter on a base that is as it was loaded."""
        return all(ready(layer, self.adapter) for layer in self.layers)

    def output(self, place: int, x: Tensor) -> Tensor | None:
        """The output of a member for ``x``; None where PEFT has to compute it."""
        if place:
            return self.taken(place, x)
        self.waiting = None
        if not self.usable():
            return None
        first, *rest = self.compute(x)
        if rest:
            self.waiting = (x, x._version, dict(enumerate(rest, start=1)))
        return first

    def taken(self, place: int, x: Tensor) -> Tensor | None:
        """What was computed for this member, if it was computed for this input."""
        if self.waiting is None:
            return None
        given, version, outputs = self.waiting
        if given is not x or x._version != version or place not in outputs:
            return None
        output = outputs.pop(place)
        if not outputs:
            self.waiting = None
        return output

    def compute(self, x: Tensor) -> Iterable[Tensor]:
        """The outputs of all members."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        scales = [layer.scaling[self.adapter] for layer in self.layers]
        downs = [layer.lora_A[self.adapter].weight for layer in self.layers]
        ups = [layer.lora_B[self.adapter].weight for layer in self.layers]
        outputs = Products.apply(x, self.bases, scales, *downs, *ups)
        assert isinstance(outputs, tuple)
        return outputs


@dataclass
class FusedForward:
    """The ``forward`` of one member: the group's result, or PEFT's own."""

    group: Group
    place: int

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the layer's own forward returns."""
        layer = self.group.layers[self.place]
        output = None
        if torch.is_grad_enabled() and not args and not kwargs:
            output = self.group.output(self.place, x)
        return type(layer).forward(layer, x, *args, **kwargs) if output is None else output


def ready(layer: Any, adapter: str) -> bool:
    """Whether the layer runs exactly this adapter on a base that is as it was loaded."""
    if layer.disable_adapters or layer.merged or layer.active_adapters != [adapter]:
        return False
    weight = layer.base_layer.weight
    return not weight.requires_grad and not (quantized(weight) and repacked(weight))


def fuse(model: nn.Module) -> Fused:
    """Compute LoRA layers of ``model`` together, in place; a second call begins anew.

    Call it before DDP or FSDP wrap the model, in the precision of use; it runs one short forward pass.

    Args:
        model: A PEFT model, or anything that holds one.
    """
    from peft.tuners.lora import LoraLayer

    unfuse(model)
    found: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    reasons = {name: why_not(layer) for name, layer in found.items()}
    able = {name: found[name] for name, reason in reasons.items() if reason is None}
    seen = observed(model) if able else Seen()
    groups = grouped(seen, able)
    names = {id(layer): name for name, layer in able.items()}
    single = {names[id(group.layers[0])]: group for group in groups if len(group.layers) == 1}
    for block in gated_blocks(model, seen, single):
        block.block.forward = block
    for group in groups:
        for place, layer in enumerate(group.layers):
            layer.forward = FusedForward(group, place)
    return Fused(len(able), len(groups), Counter(reason for reason in reasons.values() if reason is not None))


def unfuse(model: nn.Module) -> None:
    """Give every layer PEFT's own forward back; does nothing where none is replaced."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), FusedForward | GatedForward):
            del module.forward


def why_not(layer: Any) -> str | None:
    """Why a LoRA layer keeps PEFT's forward, in a clause; None when it can be fused."""
    from peft.tuners.lora import Linear

    base, active = layer.base_layer, layer.active_adapters
    if not (isinstance(layer, Linear) or type(layer).__name__ == "Linear4bit"):
        return f"{type(layer).__name__} layers are not plain linear ones"
    if len(active) != 1 or active[0] not in layer.lora_A:
        return "several adapters, or none, are active"
    if active[0] in layer.lora_variant:
        return f"their adapter is a variant of LoRA ({type(layer.lora_variant[active[0]]).__name__})"
    if not isinstance(layer.lora_dropout[active[0]], nn.Identity):
        return "they drop inputs"
    if layer.lora_bias[active[0]]:
        return "their adapter has a bias"
    if not plain(base):
        return f"their base is a {type(base).__name__}"
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "their base is trained too"
    parts = (base, layer.lora_A[active[0]], layer.lora_B[active[0]])
    if any(hooked(part) for part in parts) or any(type(part) is not nn.Linear for part in parts[1:]):
        return "something else watches or replaces their parts"
    return None


def plain(base: nn.Module) -> bool:
    """Whether only weight and bias decide what a base layer computes."""
    if type(base) in (nn.Linear, Conv1D):
        return True
    weight = base.weight if "weight" in base._parameters else None
    return type(base).__name__ == "Linear4bit" and isinstance(weight, Tensor) and quantized(weight)


def hooked(module: nn.Module) -> bool:
    """Whether its forward is replaced or has hooks, which would not run."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def grouped(seen: Seen, layers: Mapping[str, Any]) -> list[Group]:
    """Groups of the layers that one parent calls with the same tensor, in the order of the calls."""
    together: dict[tuple[Any, ...], list[str]] = {}
    for name in seen.calls:
        if name in layers and (call := seen.only_call(name)) is not None:
            key = (name.rpartition(".")[0], id(call.given), layers[name].active_adapters[0])
            together.setdefault(key, []).append(name)
    alone = [[name] for name in layers if seen.only_call(name) is None]
    return [group_of([layers[name] for name in names]) for names in [*together.values(), *alone]]


def group_of(layers: Iterable[Any]) -> Group:
    """A group of PEFT's layers."""
    layers = tuple(layers)
    bases = tuple(Base(layer.base_layer, isinstance(layer.base_layer, Conv1D)) for layer in layers)
    return Group(layers, layers[0].active_adapters[0], bases)


def observed(model: nn.Module) -> Seen:
    """One forward pass of eight tokens."""
    seen = Seen()
    modules = model.named_modules()
    handles = [module.register_forward_hook(seen.hook(name), with_kwargs=True) for name, module in modules]
    try:
        with generating(model) as lm, Watch(seen):
            ids = torch.randint(lm.config.get_text_config().vocab_size, (1, 8), generator=torch.Generator())
            lm(input_ids=ids.to(lm.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen
