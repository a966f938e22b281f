"""Train some of the base's own weights: its biases (BitFit), or the parameters that patterns select.

The trained weights are part of the model, so a run exports the whole model, as full fine-tuning does. Frozen weights
need no gradient, no optimizer state and no float32 master copy: they stay in the compute type.
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
"""The end of a bias's name: a whole segment, or after an underscore as in expert layers (down_proj_bias)."""


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
    assert config.kind is AdapterKind.none, "an adapter of PEFT selects for itself"
    for pattern in config.train:
        found = match_parameters(all_names, [pattern], "adapter.train")
        if not found & set(names):
            refuse_tower_names(model, sorted(found), "adapter.train", pattern)
    chosen = match_parameters(names, config.train, "adapter.train") if config.train else set(names)
    # A router that is named explicitly is trained.
    routers = set() if config.router or config.train else router_parameters(names)
    chosen -= routers | match_parameters(all_names, config.freeze, "adapter.freeze")
    if not chosen:
        raise SftError(
            where="adapter.freeze",
            problem="every parameter that would be trained is frozen",
            fix="freeze less, or choose adapter=lora, which freezes the whole base",
        )
    return chosen


def bias_names(model: PreTrainedModel, names: Sequence[str], *, router: bool) -> set[str]:
    """Return the names of all biases, those of routers if ``router`` (Ben Zaken et al. 2022, arXiv:2106.10199).

    Raises:
        SftError: The family has none.
    """
    routers = set() if router else router_parameters(names)
    found = {name for name in names if BIAS_NAME.search(name)} - routers
    if not found:
        raise SftError(
            where="adapter.kind=bitfit",
            problem=f"a {model.config.model_type} has no biases to train",
            fix="adapter=ia3 trains about as little, adapter=lora more",
        )
    return found


def match_parameters(names: Sequence[str], patterns: Sequence[str], key: str) -> set[str]:
    """Return the names in which any of the patterns is found, at any position.

    Raises:
        SftError: A pattern is not a regular expression, or matches no name.
    """
    found: set[str] = set()
    for pattern in patterns:
        try:
            matched = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise SftError(
                where=key,
                problem=f"{pattern!r} is not a regular expression: {error}",
                fix=r"a dot in a name is written \., as in 'layers\.0\.'",
            ) from error
        if not matched:
            nearest = get_close_matches(pattern.replace("\\", ""), names, n=3, cutoff=0.0)
            raise SftError(
                where=key,
                problem=f"{pattern!r} matches no parameter of this model",
                fix=f"the nearest names are {', '.join(nearest)}",
            )
        found |= matched
    return found


def router_parameters(names: Sequence[str]) -> set[str]:
    """Return the parameters that choose experts or weigh a shared one; ``adapter.router`` trains them.

    The parent of a router also holds the experts. This distinguishes a router from other gates.
    """
    found = set()
    blocks = {name[: name.index(".experts.")] for name in names if ".experts." in name}
    for name in names:
        segments = name.split(".")
        positions = [place for place, segment in enumerate(segments) if segment in ROUTER_NAMES]
        if any(".".join(segments[:place]) in blocks for place in positions):
            found.add(name)
    return found


def cast_frozen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Store the frozen matrices in ``dtype``, in place.

    Vectors are not cast: they are small, and a norm requires its weight and its bias to have the same type.
    """
    for value in model.parameters():
        if not value.requires_grad and value.dim() > 1:
            value.data = value.data.to(dtype)
