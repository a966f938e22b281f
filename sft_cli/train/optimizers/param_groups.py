"""Parameter groups: weight decay and learning rate of each trained parameter."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_cli.config.schema.adapter import AdapterConfig
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import OptimizerName, TrainerConfig
from sft_cli.errors import SftError
from sft_cli.model.head.loss_model import LossModel
from sft_cli.utils.similar import closest_name

MUON_KEY = "muon"
"""Key of a group: whether Muon updates it; only with ``trainer.optimizer=muon``."""
_LORA_B = re.compile(r"\.lora_(embedding_)?B\b")
_KINDS = ("hidden", "matrices", "vectors")


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the names and values of the trained parameters; a tied weight occurs once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def parameter_groups(model: nn.Module, trainer: TrainerConfig, adapter: AdapterConfig) -> list[dict[str, Any]]:
    """Make the parameter groups of an optimizer: ``params``, ``name``, ``lr``, ``weight_decay`` (and ``MUON_KEY``).

    ``trainer.lr`` is multiplied by the first factor of ``trainer.lr_factors`` whose pattern matches the name, and by
    ``adapter.lr_ratio`` for LoRA's B. Matrices have weight decay; vectors have none (norms, biases, scales, also those
    stored as ``(1, n)``). Groups at ``trainer.lr`` itself come first, because the first group's learning rate is
    logged.

    Raises:
        SftError: A pattern of ``trainer.lr_factors`` matches no trained parameter.
    """
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    factors = _lr_factors(base_parameter_names(model), trainer.lr_factors)
    vocabulary = vocabulary_weights(model) if trainer.optimizer is OptimizerName.muon else None
    for name, parameter in base_parameter_names(model).items():
        if parameter.requires_grad:
            factor = factors[name] * (adapter.lr_ratio if _LORA_B.search(name) else 1.0)
            groups.setdefault((_kind(parameter, vocabulary), factor), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": kind if factor == 1 else f"{kind} x {factor:g}",
            "lr": resolved(trainer.lr) * factor,
            "weight_decay": 0.0 if kind == "vectors" else trainer.weight_decay,
            **({} if vocabulary is None else {MUON_KEY: kind == "hidden"}),
        }
        for (kind, factor), parameters in sorted(
            groups.items(), key=lambda entry: (entry[0][1] != 1, _KINDS.index(entry[0][0]))
        )
    ]


def base_parameter_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters by name, without the prefixes that PEFT and the loss model add."""
    inner = model.model if isinstance(model, LossModel) else model
    return {name.removeprefix("base_model.model."): parameter for name, parameter in inner.named_parameters()}


def is_matrix(parameter: Tensor) -> bool:
    """Return whether at least two dimensions are greater than 1."""
    return sum(size > 1 for size in parameter.shape) >= 2


def vocabulary_weights(model: nn.Module) -> frozenset[int]:
    """Return the ``id`` of each embedding weight: input and output embeddings, and embeddings of positions."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    heads = [module.get_output_embeddings() for module in model.modules() if isinstance(module, PreTrainedModel)]
    return frozenset(embeddings | {id(head.weight) for head in heads if head is not None})


def _kind(parameter: nn.Parameter, vocabulary: Collection[int] | None) -> str:
    """Return ``vectors``, ``matrices``, or ``hidden`` for matrices that Muon updates, if ``vocabulary`` is given."""
    if not is_matrix(parameter):
        return "vectors"
    hidden = vocabulary is not None and parameter.ndim == 2 and id(parameter) not in vocabulary
    return "hidden" if hidden else "matrices"


def _lr_factors(parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float]) -> dict[str, float]:
    """Return the factor on the learning rate of each trained parameter, by name."""
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    pattern_of = {name: next((pattern for pattern in factors if re.search(pattern, name)), None) for name in trained}
    for pattern in factors:
        if pattern not in pattern_of.values():
            raise _unmatched_pattern_error(pattern, trained, [name for name in parameters if re.search(pattern, name)])
    return {name: 1.0 if pattern is None else factors[pattern] for name, pattern in pattern_of.items()}


def _unmatched_pattern_error(pattern: str, trained: list[str], matched: list[str]) -> SftError:
    """Return the error for a pattern that sets no factor; ``matched`` are the names of all parameters it matches."""
    where = f"trainer.lr_factors.{pattern}"
    if overridden := [name for name in matched if name in trained]:
        return SftError(
            where=where,
            problem=f"every trained parameter it matches ({overridden[0]}, …) is matched by an earlier pattern",
            fix="move it before the more general pattern, or remove it",
        )
    if matched:
        return SftError(
            where=where,
            problem=f"it matches only parameters that are not trained ({matched[0]})",
            fix=f"adapter=none, which trains them, or remove {where}",
        )
    words = sorted({word for name in trained for word in name.split(".") if not word.isdigit()})
    suggestion = closest_name(pattern, words)
    return SftError(
        where=where,
        problem="it matches no parameter name",
        fix=(f"did you mean {suggestion}? " if suggestion else "") + f"trained parameters: {', '.join(words[:12])}",
    )
