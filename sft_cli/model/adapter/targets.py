"""Find the layers that get an adapter, and check that they support it; a model on the meta device is enough."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import ALL_LINEAR, MERGEABLE, AdapterConfig, AdapterKind
from sft_cli.errors import SftError
from sft_cli.model.adapter.layer_sizes import check_layers
from sft_cli.model.language_model import is_inside, language_modules, non_language_modules
from sft_cli.model.quant import layer_features

NUM_EXPERTS_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys of a model's configuration for its number of experts."""
OLD_EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate"}
"""Layer names of experts and routers in older releases."""
ROUTER_NAMES = {"gate", "router", "shared_expert_gate"}
"""Segments of the names of routers."""
BYPASSED_NAMES = {"out_proj", "x_proj", "dt_proj"}
"""Layers of a state-space mixer whose weights transformers may use without calling the layer."""


def check_adapter(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Check that the model's layers support the adapter; the model may be on the meta device (``load.empty_model``).

    Raises:
        SftError: A name or a pattern matches nothing, or a size does not fit the kind.
    """
    if config.kind not in MERGEABLE:
        return
    layers = adapted_layers(model, config)
    check_target_modules(model, config)
    check_target_parameters(model, config.target_parameters)
    check_modules_to_save(model, config.modules_to_save)
    for key, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for pattern in patterns:
            # PEFT matches the patterns in this way.
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in layers):
                raise SftError(
                    where=f"adapter.{key}",
                    problem=f"no adapted layer's name, such as {next(iter(layers))}, ends in a match of {pattern!r}",
                    fix=r"extend it to the end of the name: '.*layers\.[0-3]\..*' selects all of the first four layers",
                )
    check_layers(layers, config)


def check_target_modules(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Refuse ``target_modules`` that cannot be adapted or that PEFT mistakes for experts."""
    mistaken, bypassed = mistaken_for_experts(model, config), bypassed_mamba_layers(model)
    for target in config.target_modules:
        if target_matches_any(target, bypassed):
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} names {next(name for name in bypassed if matches_target(name, [target]))} of a"
                " state-space layer, whose weight is used without calling the layer: an adapter would have no effect",
                fix=f"remove {target}, or adapter.target_modules=[{ALL_LINEAR}] for every layer that can be adapted",
            )
        if target_matches_any(target, mistaken):
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} is also PEFT's name for the experts of a {model.config.model_type}, which it"
                " would adapt",
                fix=f"remove {target}, and adapt the experts by"
                f" adapter.target_parameters=[{','.join(stacked_expert_names(model))}] if you want them",
            )


def check_target_parameters(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Refuse ``target_parameters`` that are not a matrix or a stack of matrices of this model."""
    shapes = {name: value.dim() for name, value in model.named_parameters()}
    for target in targets:
        matches = [name for name in shapes if name == target or name.endswith(f".{target}")]
        refuse_tower_names(model, matches, "adapter.target_parameters", target)
        if not matches or any(shapes[name] not in (2, 3) for name in matches):
            stacks = stacked_expert_names(model)
            raise SftError(
                where="adapter.target_parameters",
                problem=f"{target!r} matches no matrix of this model",
                fix=f"adapter.target_parameters=[{','.join(stacks)}], its stacks of experts"
                if stacks
                else "remove it: it has no experts",
            )


def check_modules_to_save(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Refuse ``modules_to_save`` that are not a module of this model."""
    names = [name for name, _ in model.named_modules() if name]
    for target in targets:
        matches = [name for name in names if matches_target(name, [target])]
        refuse_tower_names(model, matches, "adapter.modules_to_save", target)
        if not matches:
            nearest = get_close_matches(target, sorted({name.rsplit(".", 1)[-1] for name in names}), n=1, cutoff=0.0)
            raise SftError(
                where="adapter.modules_to_save",
                problem=f"{target!r} matches no module of this model",
                fix=f"adapter.modules_to_save=[{nearest[0]}] is the nearest",
            )


def refuse_tower_names(model: PreTrainedModel, names: Sequence[str], key: str, target: str) -> None:
    """Refuse a target if one of the names that it matches is outside the language model, which text does not train."""
    towers = non_language_modules(model)
    if inside := [name for name in names if is_inside(name, towers)]:
        remaining = [name for name in names if not is_inside(name, towers)]
        raise SftError(
            where=key,
            problem=f"{target!r} names {inside[0]}, which text does not train: it is not part of the language model",
            fix=f"{key}=[{','.join(remaining)}]" if remaining else f"remove {target}",
        )


def adapted_layers(model: PreTrainedModel, config: AdapterConfig) -> dict[str, nn.Module]:
    """Return the layers that get an adapter, by name, in the model's order."""
    targets = peft_target_modules(model, config.target_modules)
    head = model.get_output_embeddings()
    if targets == ALL_LINEAR:
        excluded = {*mistaken_for_experts(model, config), *excluded_from_all_linear(model, config)}
        linears = {
            name: layer for name, layer in language_modules(model).items() if isinstance(layer, nn.Linear | Conv1D)
        }
        return {name: layer for name, layer in linears.items() if layer is not head and name not in excluded}
    return {name: layer for name, layer in adaptable_layers(model).items() if matches_target(name, targets)}


def peft_target_modules(model: PreTrainedModel, targets: Sequence[str]) -> str | list[str]:
    """Return PEFT's ``target_modules`` after checking that every target matches a layer that supports an adapter.

    Raises:
        SftError: A target matches none.
    """
    if list(targets) == [ALL_LINEAR]:
        return ALL_LINEAR
    names = list(adaptable_layers(model))
    available = sorted({name.rsplit(".", 1)[-1] for name in names})
    for target in targets:
        if not target_matches_any(target, names):
            matches = [name for name, _ in model.named_modules() if matches_target(name, [target])]
            refuse_tower_names(model, matches, "adapter.target_modules", target)
            nearest = get_close_matches(target, [*available, ALL_LINEAR], n=1, cutoff=0.0)
            raise SftError(
                where="adapter.target_modules",
                problem=f"{target!r} matches no layer of this model; there are {', '.join(available)}",
                fix=f"adapter.target_modules=[{ALL_LINEAR}]"
                if nearest[0] == ALL_LINEAR
                else f"adapter.target_modules=[{nearest[0]}] is the nearest, or [{ALL_LINEAR}] alone",
            )
    return list(targets)


def adaptable_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the layers of the language model that support LoRA, by name."""
    layers = (nn.Linear, nn.Embedding, Conv1D)
    return {name: layer for name, layer in language_modules(model).items() if isinstance(layer, layers)}


def tower_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of all modules outside the language model; text does not reach them, so none is adapted."""
    towers = non_language_modules(model)
    return [name for name, _ in model.named_modules() if is_inside(name, towers)]


def matches_target(name: str, targets: Sequence[str]) -> bool:
    """Return whether a layer's name ends in one of the targets."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def target_matches_any(target: str, names: Sequence[str]) -> bool:
    """Return whether a target matches any of the layer names."""
    return any(matches_target(name, [target]) for name in names)


def router_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of linear layers that select experts or weight a shared one.

    They are recognized by name and number of outputs. In most families a router is a parameter without a layer, which
    ``all-linear`` does not include.
    """
    values = model.config.get_text_config().to_dict()
    experts = {values[key] for key in NUM_EXPERTS_KEYS if isinstance(values.get(key), int)}
    linears = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D))
    return [
        name
        for name, layer in linears
        if experts and ROUTER_NAMES & set(name.split(".")) and layer_features(layer)[1] in {1, *experts}
    ]


def excluded_from_all_linear(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Return the layers that ``all-linear`` excludes: bypassed, grouped, and routers unless ``adapter.router``."""
    routers = () if config.router else router_layers(model)
    return [*routers, *bypassed_mamba_layers(model), *grouped_layers(model)]


def grouped_layers(model: PreTrainedModel) -> list[str]:
    """Return linear layers that multiply each group of inputs by a block of their weight (DeepSeek V4).

    PEFT's LoRA multiplies all inputs by one matrix, whose output has another shape.
    """
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and vars(layer).get("n_groups", 1) > 1
    ]


def bypassed_mamba_layers(model: PreTrainedModel) -> list[str]:
    """Return linear layers of Mamba mixers (arXiv:2312.00752) whose weights are used without calling the layer.

    Without the fused kernels some are called, but the trained parameters must not depend on that.
    """
    mixers = [(name, module) for name, module in model.named_modules() if {"A_log", "D"} <= set(module._parameters)]
    return [
        f"{mixer}.{name}" for mixer, module in mixers for name, _ in module.named_children() if name in BYPASSED_NAMES
    ]


def mistaken_for_experts(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Return linear layers of models with stacked experts that PEFT 0.21 takes for the experts or the router.

    It does so for LoRA, to load adapters of older releases. So the ``gate_proj`` of a shared expert cannot be a target.
    """
    if config.kind is not AdapterKind.lora or not stacked_expert_names(model):
        return []
    linears = (name for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
    return [name for name in linears if name.rsplit(".", 1)[-1] in OLD_EXPERT_NAMES]


def stacked_expert_names(model: PreTrainedModel) -> list[str]:
    """Return the ends of the names of parameters ``(experts, …, …)`` that stack the matrices of a layer's experts."""
    stacks = (name for name, value in model.named_parameters() if value.dim() == 3 and ".experts." in name)
    return sorted({".".join(name.split(".")[-3:]) for name in stacks})


def unadapted_notes(model: PreTrainedModel, config: AdapterConfig) -> Iterator[str]:
    """Yield log lines about layers that stay frozen although one might expect an adapter."""
    stacks = stacked_expert_names(model)
    frozen_stacks = [
        stack for stack in stacks if not any(stack.endswith(target) for target in config.target_parameters)
    ]
    if frozen_stacks and config.kind in MERGEABLE:
        yield f"the experts stay frozen: adapter.target_parameters=[{','.join(frozen_stacks)}] adapts them (LoRA only)"
    if mistaken := mistaken_for_experts(model, config):
        yield f"{len(mistaken)} layers such as {mistaken[0]} stay frozen: PEFT mistakes them for experts"
    if (bypassed := bypassed_mamba_layers(model)) and config.kind in MERGEABLE:
        yield f"{len(bypassed)} layers such as {bypassed[0]} stay frozen: no layer call uses their weights"
    if (grouped := grouped_layers(model)) and config.kind in MERGEABLE:
        yield f"{len(grouped)} layers such as {grouped[0]} stay frozen: PEFT cannot adapt blocks of a weight"
