"""Training some of the base's own weights: its biases (BitFit), or the parameters that patterns name.

What is trained is part of the model, so a run exports the whole model, as full fine-tuning does. What is frozen needs
neither a gradient nor optimizer state nor float32 master weights: it stays in the type of the matrix products.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind
from sft_cli.errors import SftError
from sft_cli.model.adapter.targets import ROUTERS, refuse_towers
from sft_cli.model.language_model import beside_language, within

BIAS = re.compile(r"(^|[._])bias$")
"""The end of a bias's name; of a whole segment or behind an underscore, as expert layers have it (down_proj_bias)."""


def select(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Train what ``adapter`` selects of the base's own weights, and freeze the rest; in place.

    Raises:
        SftError: The family has no biases, a pattern names nothing, or nothing is left to train.
    """
    wanted = selected(model, config)
    for name, value in model.named_parameters():
        value.requires_grad_(name in wanted)


def selected(model: PreTrainedModel, config: AdapterConfig) -> set[str]:
    """The names of the parameters that are trained; the model may be empty (see ``load.empty_model``).

    Raises:
        SftError: As ``select``.
    """
    beside = beside_language(model)
    every = [name for name, _ in model.named_parameters()]
    names = [name for name in every if not within(name, beside)]
    if config.kind is AdapterKind.bitfit:
        return biases(model, names, router=config.router)
    assert config.kind is AdapterKind.none, "an adapter of PEFT selects for itself"
    for pattern in config.train:
        found = matching(every, [pattern], "adapter.train")
        if not found & set(names):
            refuse_towers(model, sorted(found), "adapter.train", pattern)
    chosen = matching(names, config.train, "adapter.train") if config.train else set(names)
    # Whoever names a router wants it.
    left_out = set() if config.router or config.train else router_weights(names)
    chosen -= left_out | matching(every, config.freeze, "adapter.freeze")
    if not chosen:
        raise SftError(
            where="adapter.freeze",
            problem="every parameter that would be trained is frozen",
            fix="freeze less, or choose adapter=lora, which freezes the whole base",
        )
    return chosen


def biases(model: PreTrainedModel, names: Sequence[str], *, router: bool) -> set[str]:
    """All biases, those of routers if asked (Ben Zaken et al. 2022, arXiv:2106.10199).

    Raises:
        SftError: The family has none.
    """
    left_out = set() if router else router_weights(names)
    found = {name for name in names if BIAS.search(name)} - left_out
    if not found:
        raise SftError(
            where="adapter.kind=bitfit",
            problem=f"a {model.config.model_type} has no biases to train",
            fix="adapter=ia3 trains about as little, adapter=lora more",
        )
    return found


def matching(names: Sequence[str], patterns: Sequence[str], key: str) -> set[str]:
    """The names in which any of the patterns is found, anywhere.

    Raises:
        SftError: A pattern is no regular expression, or is found in no name.
    """
    found: set[str] = set()
    for pattern in patterns:
        try:
            own = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise SftError(
                where=key,
                problem=f"{pattern!r} is not a regular expression: {error}",
                fix=r"a dot in a name is written \., as in 'layers\.0\.'",
            ) from error
        if not own:
            near = get_close_matches(pattern.replace("\\", ""), names, n=3, cutoff=0.0)
            raise SftError(
                where=key,
                problem=f"{pattern!r} matches no parameter of this model",
                fix=f"the nearest names are {', '.join(near)}",
            )
        found |= own
    return found


def router_weights(names: Sequence[str]) -> set[str]:
    """The parameters that choose experts, or weigh a shared one, layers or not; ``adapter.router`` trains them too.

    A router stands beside the experts it chooses from, which tells it from a gate of anything else.
    """
    found = set()
    blocks = {name[: name.index(".experts.")] for name in names if ".experts." in name}
    for name in names:
        segments = name.split(".")
        places = [place for place, segment in enumerate(segments) if segment in ROUTERS]
        if any(".".join(segments[:place]) in blocks for place in places):
            found.add(name)
    return found


def frozen_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Store the frozen matrices in ``dtype``, in place.

    Vectors stay as they are: they are small, and a norm does not take its weight and its bias in two types.
    """
    for value in model.parameters():
        if not value.requires_grad and value.dim() > 1:
            value.data = value.data.to(dtype)
