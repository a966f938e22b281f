"""Which layers an adapter sits on, and whether they can carry it: names and sizes only, so an empty model will do."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import MERGEABLE, AdapterConfig, AdapterKind
from sft_cli.errors import SftError
from sft_cli.model.adapter.layer_sizes import check_layers
from sft_cli.model.language_model import beside_language, own_modules, within
from sft_cli.model.quant import features

ALL_LINEAR = "all-linear"
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys of a model's configuration that hold its number of experts."""
EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate"}
"""Names of layers that older releases gave to experts and routers."""
ROUTERS = {"gate", "router", "shared_expert_gate"}
"""Segments of the names of routers."""
PASSED_BY = {"out_proj", "x_proj", "dt_proj"}
"""Names of layers of a state-space mixer whose weights transformers hands to a kernel or multiplies by itself."""


def check_adapter(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Return if the model's layers can carry the adapter; the model may be empty (see ``load.empty_model``).

    Raises:
        SftError: A name or a pattern matches nothing, or a size does not suit the kind.
    """
    if config.kind not in MERGEABLE:
        return
    layers = adapted_layers(model, config)
    check_names(model, config)
    check_parameters(model, config.target_parameters)
    check_saved(model, config.modules_to_save)
    for key, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for pattern in patterns:
            # As PEFT reads them.
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in layers):
                raise SftError(
                    where=f"adapter.{key}",
                    problem=f"{pattern!r} matches the end of no adapted layer's name, such as {next(iter(layers))}",
                    fix=r"write it to the end of the name: '.*layers\.[0-3]\..*' takes all of the first four layers",
                )
    check_layers(layers, config)


def check_names(model: PreTrainedModel, config: AdapterConfig) -> None:
    """A sentence for the first of ``target_modules`` that cannot be adapted, or that PEFT takes for something else."""
    taken, passed_by = taken_for_experts(model, config), state_space(model)
    for target in config.target_modules:
        if named_by(target, passed_by):
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} names {next(name for name in passed_by if named(name, [target]))} of a state-space"
                " layer, whose weight is used without calling the layer: an adapter there would have no effect",
                fix=f"leave {target} out; [{ALL_LINEAR}] alone takes every layer that can carry one",
            )
        if named_by(target, taken):
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} is also what PEFT calls the experts of this {model.config.model_type}, and it"
                " would adapt those",
                fix=f"adapter.target_parameters=[{','.join(expert_stacks(model))}] if you want them, and leave"
                f" {target} out",
            )


def check_parameters(model: PreTrainedModel, wanted: Sequence[str]) -> None:
    """A sentence for the first of ``target_parameters`` that is no matrix or stack of matrices of this model."""
    shapes = {name: value.dim() for name, value in model.named_parameters()}
    for target in wanted:
        found = [name for name in shapes if name == target or name.endswith(f".{target}")]
        refuse_towers(model, found, "adapter.target_parameters", target)
        if not found or any(shapes[name] not in (2, 3) for name in found):
            stacks = expert_stacks(model)
            raise SftError(
                where="adapter.target_parameters",
                problem=f"{target!r} matches no matrix of this model",
                fix=f"its stacks of experts are [{', '.join(stacks)}]" if stacks else "leave it out: it has no experts",
            )


def check_saved(model: PreTrainedModel, wanted: Sequence[str]) -> None:
    """A sentence for the first of ``modules_to_save`` that is no module of this model."""
    names = [name for name, _ in model.named_modules() if name]
    for target in wanted:
        found = [name for name in names if named(name, [target])]
        refuse_towers(model, found, "adapter.modules_to_save", target)
        if not found:
            near = get_close_matches(target, sorted({name.rsplit(".", 1)[-1] for name in names}), n=1, cutoff=0.0)
            raise SftError(
                where="adapter.modules_to_save",
                problem=f"{target!r} matches no module of this model",
                fix=f"adapter.modules_to_save=[{near[0]}] is the nearest",
            )


def refuse_towers(model: PreTrainedModel, found: Sequence[str], key: str, target: str) -> None:
    """A sentence when a name that is trained means something beside the language model, which text never reaches."""
    beside = beside_language(model)
    if inside := [name for name in found if within(name, beside)]:
        own = [name for name in found if not within(name, beside)]
        raise SftError(
            where=key,
            problem=f"{target!r} names {inside[0]}, which text does not train: it is not part of the language model",
            fix=f"{key}=[{','.join(own)}]" if own else f"leave {target} out",
        )


def adapted_layers(model: PreTrainedModel, config: AdapterConfig) -> dict[str, nn.Module]:
    """The layers that get an adapter, by name, in the model's order."""
    targets = target_modules(model, config.target_modules)
    head = model.get_output_embeddings()
    if targets == ALL_LINEAR:
        passed = {*taken_for_experts(model, config), *left_out(model, config)}
        linears = {name: layer for name, layer in own_modules(model).items() if isinstance(layer, nn.Linear | Conv1D)}
        return {name: layer for name, layer in linears.items() if layer is not head and name not in passed}
    return {name: layer for name, layer in carriers(model).items() if named(name, targets)}


def target_modules(model: PreTrainedModel, wanted: Sequence[str]) -> str | list[str]:
    """What PEFT is told, after checking that every name matches a layer that can carry an adapter.

    Raises:
        SftError: One does not.
    """
    if list(wanted) == [ALL_LINEAR]:
        return ALL_LINEAR
    names = list(carriers(model))
    available = sorted({name.rsplit(".", 1)[-1] for name in names})
    for target in wanted:
        if not named_by(target, names):
            found = [name for name, _ in model.named_modules() if named(name, [target])]
            refuse_towers(model, found, "adapter.target_modules", target)
            near = get_close_matches(target, [*available, ALL_LINEAR], n=1, cutoff=0.0)
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} matches no layer of this model; there are {', '.join(available)}",
                fix=f"adapter.target_modules=[{ALL_LINEAR}]"
                if near[0] == ALL_LINEAR
                else f"adapter.target_modules=[{near[0]}] is the nearest, or [{ALL_LINEAR}] alone",
            )
    return list(wanted)


def carriers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The layers that can carry LoRA, by name; of a vision-language model those of its language model."""
    layers = (nn.Linear, nn.Embedding, Conv1D)
    return {name: layer for name, layer in own_modules(model).items() if isinstance(layer, layers)}


def towers(model: PreTrainedModel) -> list[str]:
    """All modules beside the language model, by name: text never reaches them, so nothing of them is adapted."""
    beside = beside_language(model)
    return [name for name, _ in model.named_modules() if within(name, beside)]


def named(name: str, wanted: Sequence[str]) -> bool:
    """Whether a layer's name ends in one of those wanted."""
    return any(name == target or name.endswith(f".{target}") for target in wanted)


def named_by(target: str, names: Sequence[str]) -> bool:
    """Whether a target names any of the layers."""
    return any(named(name, [target]) for name in names)


def routers(model: PreTrainedModel) -> list[str]:
    """The linear layers that choose experts (or weigh a shared one), by name and number of outputs.

    In most families a router is a bare parameter, which ``all-linear`` does not see anyway.
    """
    values = model.config.get_text_config().to_dict()
    experts = {values[key] for key in EXPERTS if isinstance(values.get(key), int)}
    linears = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D))
    return [
        name
        for name, layer in linears
        if experts and ROUTERS & set(name.split(".")) and features(layer)[1] in {1, *experts}
    ]


def left_out(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Linear layers that ``all-linear`` does not mean: routers, unless they are asked for, and ``state_space``."""
    return [*(() if config.router else routers(model)), *state_space(model)]


def state_space(model: PreTrainedModel) -> list[str]:
    """Linear layers of Mamba's mixers (arXiv:2312.00752) whose weight is read past the layer, and past an adapter.

    Some are called where the fused kernels are missing; what is trained must not hang on that.
    """
    mixers = [(name, module) for name, module in model.named_modules() if {"A_log", "D"} <= set(module._parameters)]
    return [f"{mixer}.{name}" for mixer, module in mixers for name, _ in module.named_children() if name in PASSED_BY]


def taken_for_experts(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Linear layers beside stacked experts whose names PEFT 0.21 takes for the experts and the router themselves.

    It does so under LoRA, to open adapters of older releases: a shared expert's ``gate_proj`` cannot be named alone.
    """
    if config.kind is not AdapterKind.lora or not expert_stacks(model):
        return []
    linears = (name for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
    return [name for name in linears if name.rsplit(".", 1)[-1] in EXPERT_NAMES]


def expert_stacks(model: PreTrainedModel) -> list[str]:
    """The ends of the names of parameters ``(experts, …, …)`` that hold the matrices of all experts of a layer."""
    stacks = (name for name, value in model.named_parameters() if value.dim() == 3 and ".experts." in name)
    return sorted({".".join(name.split(".")[-3:]) for name in stacks})


def untouched(model: PreTrainedModel, config: AdapterConfig) -> Iterator[str]:
    """Lines for the log about what one might expect to be adapted, and is not."""
    stacks = expert_stacks(model)
    bare = [stack for stack in stacks if not any(stack.endswith(target) for target in config.target_parameters)]
    if bare and config.kind in MERGEABLE:
        yield f"the experts stay frozen: adapter.target_parameters=[{','.join(bare)}] adapts them (LoRA only)"
    if taken := taken_for_experts(model, config):
        yield f"{len(taken)} layers beside the experts stay frozen, such as {taken[0]}: PEFT takes them for experts"
    if (passed_by := state_space(model)) and config.kind in MERGEABLE:
        yield f"{passed_by[0]} stays frozen, as its like do ({len(passed_by)}): its weight is read past an adapter"
