"""Frozen adapters that act beside the trained one, and the one plain LoRA that all of them amount to.

Two things need them: the beginning that PiSSA and OLoRA subtract, and the adapters of ``adapter.frozen_adapters``.
Their weights are buffers, not parameters: nothing that switches adapters on and off can make them trainable, and
neither a checkpoint nor an optimizer sees them. The layer computes W x + sum over adapters of s_i B_i A_i x, so one
LoRA with A = [A_1; A_2; …] and B = [s_1 B_1, s_2 B_2, …] is the same; it is exported, and needs nothing but the base.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sft_cli.errors import SftError
from sft_cli.model.adapter.lora_inits import ADAPTER, lora_layers, matrices, set_matrices
from sft_cli.model.adapter.warm_start import WEIGHTS, adapter_settings, check_fits, digest

BEGINNING = "beginning"
"""Name of the frozen adapter that holds -B0 A0."""


def frozen_names(model: PeftModel) -> list[str]:
    """The adapters beside the trained one."""
    return [name for name in model.peft_config if name != ADAPTER]


def subtract_beginning(model: PeftModel) -> None:
    """Add a frozen adapter that takes the trained one's present product away, so that nothing changes at first."""
    own = model.peft_config[ADAPTER]
    assert isinstance(own, LoraConfig)
    copy = replace(own, lora_dropout=0.0, trainable_token_indices=None, modules_to_save=None)
    model.add_adapter(BEGINNING, copy)
    with torch.no_grad():
        for layer in lora_layers(model, BEGINNING).values():
            a, b = matrices(layer)
            set_matrices(layer, a, -b, BEGINNING)
    freeze(model, BEGINNING)


def put_beneath(model: PeftModel, number: int, directory: Path) -> None:
    """Load a saved LoRA adapter beside the trained one, frozen.

    Raises:
        SftError: It is no plain LoRA, or not one of this base.
    """
    where, name = f"adapter.frozen_adapters.{number}", f"beneath_{number}"
    refuse_unlike(where, directory, adapter_settings(directory))
    config = LoraConfig.from_pretrained(str(directory))
    assert isinstance(config, LoraConfig)
    try:
        model.add_adapter(name, replace(config, inference_mode=False, lora_dropout=0.0))
    except ValueError as error:
        raise SftError(
            where=where,
            problem=f"the adapter in {directory} cannot be put on this base: {str(error).splitlines()[0]}",
            fix="name an adapter of the same base",
        ) from error
    # PEFT's own loading looks for the rows of a stop token in every adapter as soon as one has them.
    places = {}
    for layer_name, layer in lora_layers(model, name).items():
        for letter, matrix in zip("AB", matrices(layer, name), strict=True):
            places[f"{layer_name}.lora_{letter}.weight"] = matrix
    check_fits(directory, places, where)
    saved = load_file(directory / WEIGHTS)
    with torch.no_grad():
        for key, matrix in places.items():
            matrix.copy_(saved[key])
    freeze(model, name)


def refuse_unlike(where: str, directory: Path, settings: Mapping[str, Any]) -> None:
    """A sentence for an adapter that cannot lie beneath another."""
    reasons = {
        f"it is {settings['peft_type']}, and only LoRA adapters add up": settings["peft_type"] != "LORA",
        "it is a DoRA adapter, whose lengths do not add up": settings.get("use_dora"),
        "it trains rows of the embedding, which act once": settings.get("trainable_token_indices"),
        "it holds whole modules (modules_to_save), which act once": settings.get("modules_to_save"),
        "it adapts bare parameters (target_parameters)": settings.get("target_parameters"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise SftError(
                where=where,
                problem=f"the adapter in {directory} cannot lie beneath another: {reason}",
                fix="merge it first (sft merge RUN) and train on the result: model.path=RUN/merged",
            )


def freeze(model: PeftModel, name: str) -> None:
    """Make an adapter active beside the others, with its weights as buffers."""
    for layer in lora_layers(model, name).values():
        into_buffer(layer.lora_A[name])
        into_buffer(layer.lora_B[name])
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            # The wrappers of single rows and whole modules take one adapter only, so each layer is told by itself.
            layer.set_adapter([ADAPTER, *frozen_names(model)])


def into_buffer(linear: nn.Module) -> None:
    """Turn the weight of a layer from a parameter into a buffer."""
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach()
    del linear.weight
    linear.register_buffer("weight", weight)


def save_adapter(model: PeftModel, directory: Path, beneath: Sequence[Path] = ()) -> None:
    """Write what was trained as PEFT reads it: one adapter, for the base as it was loaded.

    Adapters that lie beneath the trained one are part of what is written; ``frozen_adapters.json`` lists them.
    """
    if not frozen_names(model):
        # PEFT would look the base up on the hub to decide this; trained stop rows are saved as their own tensors.
        model.save_pretrained(str(directory), save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)
        _sort_names(directory / "adapter_config.json")
        return
    directory.mkdir(parents=True, exist_ok=True)
    config, tensors = as_one(model)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    config.save_pretrained(str(directory))
    _sort_names(directory / "adapter_config.json")
    if beneath:
        listed = [{"adapter": shown(path), "sha256": digest(path)} for path in beneath]
        (directory / "frozen_adapters.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _sort_names(file: Path) -> None:
    """Sort what PEFT writes in the order of a set, which is another one in every process: equal runs, equal bytes."""
    values = json.loads(file.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if isinstance(values.get(key), list):
            values[key].sort()
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def shown(directory: Path) -> str:
    """The name of an adapter's directory, or of the run it is of: no path of a machine."""
    whole = directory.resolve()
    return whole.parent.name if whole.name == "adapter" else whole.name


def as_one(model: PeftModel) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The trained adapter and the frozen ones as a single LoRA: its config, and its tensors by saved name."""
    own = model.peft_config[ADAPTER]
    assert isinstance(own, LoraConfig)
    names = [ADAPTER, *frozen_names(model)]
    tensors = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    ranks: dict[str, int] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        present = [one for one in names if one in layer.lora_A]
        pairs = [matrices(layer, one) for one in present]
        a = torch.cat([a.detach() for a, _ in pairs])
        b = torch.cat([b.detach() * layer.scaling[one] for one, (_, b) in zip(present, pairs, strict=True)], dim=1)
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
        ranks[name.removeprefix("base_model.model.")] = len(a)
    rank = max(ranks.values())
    others = {escaped(name): own_rank for name, own_rank in ranks.items() if own_rank != rank}
    config = replace(
        own,
        r=rank,
        lora_alpha=rank,  # the scales lie in B
        rank_pattern=others,
        alpha_pattern=others,
        use_rslora=False,
        init_lora_weights=True,
        target_modules=sorted(ranks),
        exclude_modules=None,
        inference_mode=True,
    )
    return config, {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


def escaped(name: str) -> str:
    """A layer's name as a pattern that PEFT finds by this name alone."""
    return "^" + name.replace(".", r"\.")
