"""Frozen adapters that are added to the trained one, and the single LoRA that is equal to their sum.

Two features need them: the initial offset of PiSSA and OLoRA, and the adapters of ``adapter.frozen_adapters``.
Their weights are buffers, not parameters: switching adapters on and off cannot make them trainable, and neither
checkpoints nor optimizers include them. A layer computes W x + sum over adapters of s_i B_i A_i x, which is equal to
one LoRA with A = [A_1; A_2; …] and B = [s_1 B_1, s_2 B_2, …]. That LoRA is exported; it needs only the base.
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
from sft_cli.model.adapter.lora_inits import ADAPTER, lora_layers, lora_matrices, set_lora_matrices
from sft_cli.model.adapter.warm_start import ADAPTER_WEIGHTS, adapter_digest, check_tensors_fit, read_adapter_config

INITIAL_OFFSET = "initial_offset"
"""Name of the frozen adapter with the product -B0 A0."""
MERGE_FIRST = "merge it first (sft merge RUN) and train on the result: model.path=RUN/merged"


def frozen_adapter_names(model: PeftModel) -> list[str]:
    """Return the names of all adapters except the trained one."""
    return [name for name in model.peft_config if name != ADAPTER]


def add_initial_offset(model: PeftModel) -> None:
    """Add a frozen adapter that cancels the trained one's initial product, so that the model starts as the base."""
    trained_config = model.peft_config[ADAPTER]
    assert isinstance(trained_config, LoraConfig)
    frozen_config = replace(trained_config, lora_dropout=0.0, trainable_token_indices=None, modules_to_save=None)
    model.add_adapter(INITIAL_OFFSET, frozen_config)
    with torch.no_grad():
        for layer in lora_layers(model, INITIAL_OFFSET).values():
            a, b = lora_matrices(layer)
            set_lora_matrices(layer, a, -b, INITIAL_OFFSET)
    freeze_adapter(model, INITIAL_OFFSET)


def load_frozen_adapter(model: PeftModel, number: int, directory: Path) -> None:
    """Load a saved LoRA adapter as a frozen one.

    Raises:
        SftError: It is not a plain LoRA, or was trained on another base.
    """
    where, name = f"adapter.frozen_adapters.{number}", f"frozen_{number}"
    check_stackable(where, directory, read_adapter_config(directory))
    config = LoraConfig.from_pretrained(str(directory))
    assert isinstance(config, LoraConfig)
    try:
        model.add_adapter(name, replace(config, inference_mode=False, lora_dropout=0.0))
    except ValueError as error:
        raise SftError(
            where=where,
            problem=f"the adapter in {directory} cannot be loaded onto this base: {str(error).splitlines()[0]}",
            fix=f"{where}=RUN with the same base (sft runs lists them)",
        ) from error
    # Not loaded by PEFT: if one adapter has rows of a stop token, PEFT expects them in every adapter.
    matrices = {}
    for layer_name, layer in lora_layers(model, name).items():
        for letter, matrix in zip("AB", lora_matrices(layer, name), strict=True):
            matrices[f"{layer_name}.lora_{letter}.weight"] = matrix
    check_tensors_fit(directory, matrices, where)
    saved = load_file(directory / ADAPTER_WEIGHTS)
    with torch.no_grad():
        for key, matrix in matrices.items():
            matrix.copy_(saved[key])
    freeze_adapter(model, name)


def check_stackable(where: str, directory: Path, settings: Mapping[str, Any], fix: str = MERGE_FIRST) -> None:
    """Refuse an adapter that cannot be added to another.

    Args:
        where: The key or the run that names it.
        directory: Its directory.
        settings: Its adapter_config.json.
        fix: What to do instead.

    Raises:
        SftError: It is not a plain LoRA.
    """
    reasons = {
        f"it is {settings['peft_type']}, and only LoRA adapters can be added": settings["peft_type"] != "LORA",
        "it is a DoRA adapter, whose magnitudes cannot be added": settings.get("use_dora"),
        "it has trained embedding rows, which replace those of the base": settings.get("trainable_token_indices"),
        "it has whole modules (modules_to_save), which replace those of the base": settings.get("modules_to_save"),
        "it adapts bare parameters (target_parameters)": settings.get("target_parameters"),
    }
    for reason, applies in reasons.items():
        if applies:
            raise SftError(
                where=where,
                problem=f"the adapter in {directory} cannot be added to another one: {reason}",
                fix=fix,
            )


def freeze_adapter(model: PeftModel, name: str) -> None:
    """Activate an adapter in addition to the others, and turn its weights into buffers."""
    for layer in lora_layers(model, name).values():
        parameter_to_buffer(layer.lora_A[name])
        parameter_to_buffer(layer.lora_B[name])
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            # Set on each layer: PEFT's wrappers of single rows and whole modules support only one active adapter.
            layer.set_adapter([ADAPTER, *frozen_adapter_names(model)])


def parameter_to_buffer(linear: nn.Module) -> None:
    """Turn the weight of a layer from a parameter into a buffer."""
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach()
    del linear.weight
    linear.register_buffer("weight", weight)


def save_adapter(model: PeftModel, directory: Path, frozen: Sequence[Path] = ()) -> None:
    """Write the adapter in PEFT's format: a single one for the base as it was loaded.

    It includes the frozen adapters, which ``frozen_adapters.json`` lists.
    """
    if not frozen_adapter_names(model):
        # By default, PEFT looks up the base on the hub to decide this; trained token rows are saved in any case.
        model.save_pretrained(str(directory), save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)
        _sort_module_names(directory / "adapter_config.json")
        return
    directory.mkdir(parents=True, exist_ok=True)
    config, tensors = merge_to_single_lora(model)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    config.save_pretrained(str(directory))
    _sort_module_names(directory / "adapter_config.json")
    if frozen:
        entries = [{"adapter": adapter_display_name(path), "sha256": adapter_digest(path)} for path in frozen]
        (directory / "frozen_adapters.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _sort_module_names(file: Path) -> None:
    """Sort the lists that PEFT writes in set order, so that equal runs write equal files."""
    values = json.loads(file.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if isinstance(values.get(key), list):
            values[key].sort()
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def adapter_display_name(directory: Path) -> str:
    """Return the name of the run that an adapter belongs to, or of its directory, without the path to it."""
    resolved = directory.resolve()
    return resolved.parent.name if resolved.name == "adapter" else resolved.name


def merge_to_single_lora(model: PeftModel) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Combine the trained adapter and the frozen ones into a single LoRA.

    Returns:
        Its config, and its tensors by saved name.
    """
    trained_config = model.peft_config[ADAPTER]
    assert isinstance(trained_config, LoraConfig)
    names = [ADAPTER, *frozen_adapter_names(model)]
    tensors = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    ranks: dict[str, int] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        active = [adapter for adapter in names if adapter in layer.lora_A]
        pairs = [lora_matrices(layer, adapter) for adapter in active]
        a = torch.cat([a.detach() for a, _ in pairs])
        b = torch.cat(
            [b.detach() * layer.scaling[adapter] for adapter, (_, b) in zip(active, pairs, strict=True)], dim=1
        )
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a, b
        ranks[name.removeprefix("base_model.model.")] = len(a)
    rank = max(ranks.values())
    other_ranks = {exact_name_pattern(name): own_rank for name, own_rank in ranks.items() if own_rank != rank}
    config = replace(
        trained_config,
        r=rank,
        lora_alpha=rank,  # B includes the scales
        rank_pattern=other_ranks,
        alpha_pattern=other_ranks,
        use_rslora=False,
        init_lora_weights=True,
        target_modules=sorted(ranks),
        exclude_modules=None,
        inference_mode=True,
    )
    return config, {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}


def exact_name_pattern(name: str) -> str:
    """Return a pattern for PEFT that matches this layer name only."""
    return "^" + name.replace(".", r"\.")
