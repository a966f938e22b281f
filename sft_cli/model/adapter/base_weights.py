"""Train weights of the base itself: its biases (BitFit), or the parameters that patterns select.

The trained weights are part of the model, so a run exports the whole model, as full fine-tuning does. Frozen weights
need no gradient, no optimizer state and no float32 master copy: they stay in the compute dtype.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind
from sft_cli.errors import SftError
from sft_cli.model.adapter.targets import ROUTER_NAMES, refuse_tower_names
from sft_cli.model.language_model import is_inside, non_language_modules

BIAS_NAME = re.compile(r"(^|[._])bias$")
"""The end of the name of a bias: a whole segment, or a suffix after an underscore as in expert layers
(down_proj_bias)."""


def select_trainable(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Train the base weights that ``adapter`` selects and freeze the rest, in place.

    Raises:
        SftError: The family has no biases, a pattern matches nothing, or nothing is left to train.
    """
    trained = trainable_names(model, config)
    for name, value in model.named_parameters():
        value.requires_grad_(name in trained)


def trainable_names(model: PreTrainedModel, config: AdapterConfig) -> set[str]:
    """Return the names of the parameters that are trained; the model may be on the meta device (``load.empty_model``).

    Raises:
        SftError: As in ``select_trainable``.
    """
    towers = non_language_modules(model)
    all_names = [name for name, _ in model.named_parameters()]
    names = [name for name in all_names if not is_inside(name, towers)]
    if config.kind is AdapterKind.bitfit:
        return bias_names(model, names, router=config.router)
    assert config.kind is AdapterKind.none, "a PEFT adapter selects its own layers"
    for pattern in config.train:
        matched = match_parameters(all_names, [pattern], "adapter.train")
        if not matched & set(names):
            refuse_tower_names(model, sorted(matched), "adapter.train", pattern)
    selected = match_parameters(names, config.train, "adapter.train") if config.train else set(names)
    # Routers that patterns name are trained.
    routers = set() if config.router or config.train else router_parameters(names)
    selected -= routers | match_parameters(all_names, config.freeze, "adapter.freeze")
    if not selected:
        raise SftError(
            where="adapter.freeze",
            problem="every parameter that would be trained is frozen",
            fix="adapter=lora, which freezes the whole base, or remove a pattern from adapter.freeze",
        )
    return selected


def bias_names(model: PreTrainedModel, names: Sequence[str], *, router: bool) -> set[str]:
    """Return the names of all biases, including those of routers if ``router`` (Ben Zaken 2022, arXiv:2106.10199).

    Raises:
        SftError: The family has none.
    """
    routers = set() if router else router_parameters(names)
    biases = {name for name in names if BIAS_NAME.search(name)} - routers
    if not biases:
        raise SftError(
            where="adapter.kind=bitfit",
            problem=f"a {model.config.model_type} has no biases to train",
            fix="adapter=ia3, which trains about as few parameters, or adapter=lora",
        )
    return biases


def match_parameters(names: Sequence[str], patterns: Sequence[str], key: str) -> set[str]:
    """Return the names that any of the patterns matches, at any position.

    Raises:
        SftError: A pattern is not a regular expression, or matches no name.
    """
    all_matched: set[str] = set()
    for pattern in patterns:
        try:
            matched = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise SftError(
                where=key,
                problem=f"{pattern!r} is not a regular expression: {error}",
                fix=rf"write it as Python's re does, as in {key}=['layers\.0\.']",
            ) from error
        if not matched:
            nearest = get_close_matches(pattern.replace("\\", ""), names, n=3, cutoff=0.0)
            raise SftError(
                where=key,
                problem=f"{pattern!r} matches no parameter of this model",
                fix=f"{key}=[{nearest[0]}]; the nearest names: {', '.join(nearest)}",
            )
        all_matched |= matched
    return all_matched


def router_parameters(names: Sequence[str]) -> set[str]:
    """Return the parameters that select experts or weight a shared one; ``adapter.router`` trains them.

    A router is distinguished from other gates by its parent module, which also contains the experts.
    """
    routers = set()
    blocks = {name[: name.index(".experts.")] for name in names if ".experts." in name}
    for name in names:
        segments = name.split(".")
        positions = [index for index, segment in enumerate(segments) if segment in ROUTER_NAMES]
        if any(".".join(segments[:index]) in blocks for index in positions):
            routers.add(name)
    return routers


def cast_frozen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Store the frozen matrices in ``dtype``, in place.

    Vectors are not cast: they are small, and a norm requires its weight and its bias to have the same dtype.
    """
    for value in model.parameters():
        if not value.requires_grad and value.dim() > 1:
            value.data = value.data.to(dtype)
