"""The settings of a run for its model card, without any path of this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.config import paths
from sft_cli.config.keys.valid_keys import find_key
from sft_cli.config.redaction import redact_values
from sft_cli.config.schema.adapter import (
    FOUR_BITS,
    VIRTUAL,
    WHOLE,
    AdapterConfig,
    AdapterKind,
    Init,
    QuantConfig,
    QuantKind,
)
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import resolved
from sft_cli.config.schema.trainer import TrainerConfig
from sft_cli.config.validate import to_plain
from sft_cli.utils.home import expand_home
from sft_cli.utils.mappings import flatten

ELSEWHERE = (
    "run_name",
    "run_dir",
    "model.path",
    "model.revision",
    "data.mix.",
    "tracking.",
    "launcher.",
    "notify.",
    "eval.",
)
"""Keys that the card shows elsewhere, or that do not change the trained model."""
OTHER_KINDS = {
    AdapterKind.none: "none: all weights were trained",
    AdapterKind.bitfit: "none: the biases were trained (BitFit)",
    AdapterKind.prefix: "prefix tuning",
    AdapterKind.prompt: "prompt tuning",
    AdapterKind.llama_adapter: "LLaMA-Adapter",
}
"""Kinds without numbers in the description."""


def is_hub_model(path: str) -> bool:
    """Return whether a model path names a hub repository, not a built-in model or one on this machine."""
    return not path.startswith((paths.BUILTIN, "/", ".", "~")) and not Path(path).exists()


def public_name(path: str) -> str:
    """Return a path for publication: hub ids and ``builtin:`` paths are unchanged, local ones become their names."""
    local = path.startswith(("/", ".", "~")) or Path(path).exists()
    return expand_home(path).resolve().name if local else path


def hyperparameters(adapter: AdapterConfig, quant: QuantConfig, trainer: TrainerConfig) -> dict[str, Any]:
    """Return the hyperparameters by name."""
    storage = quant.kind.value
    if quant.kind in FOUR_BITS and quant.double_quant:
        storage += ", scales quantized too"
    return {
        **adapter_hyperparameters(adapter),
        "base stored as": storage if quant.kind is not QuantKind.none else "not quantized",
        "learning rate": f"{resolved(trainer.lr):g}, {trainer.schedule.value},"
        f" warm-up {trainer.warmup_ratio:g} of the steps",
        "optimizer": f"{trainer.optimizer.value}, betas {trainer.betas[0]:g} and {trainer.betas[1]:g}",
        "weight decay": trainer.weight_decay,
        "gradient norm at most": trainer.max_grad_norm,
        "examples per step": resolved(trainer.examples_per_step),
        "epochs": resolved(trainer.epochs),
        "steps at most": trainer.max_steps,
        "longest example": f"{trainer.max_length} tokens",
        "seed": str(trainer.seed),
    }


def adapter_hyperparameters(adapter: AdapterConfig) -> dict[str, str]:
    """Return the settings of an adapter that apply to its kind, by name."""
    result = {"adapter": describe_adapter(adapter)}
    if adapter.kind not in (*WHOLE, *VIRTUAL):
        result["target modules"] = ", ".join(adapter.target_modules)
    rows = {
        "target parameters": adapter.target_parameters,
        "fully trained modules": adapter.modules_to_save,
        "on top of": [public_name(path) for path in adapter.frozen_adapters],
        "started from": [] if adapter.start_from is None else [public_name(adapter.start_from)],
        "other ranks": [f"{pattern}: {rank}" for pattern, rank in adapter.rank_pattern.items()],
        "other alphas": [f"{pattern}: {alpha:g}" for pattern, alpha in adapter.alpha_pattern.items()],
    }
    return result | {name: ", ".join(values) for name, values in rows.items() if values}


def describe_adapter(adapter: AdapterConfig) -> str:
    """Describe the kind of an adapter and its numbers."""
    if adapter.kind is AdapterKind.vera:
        return f"VeRA, rank {adapter.vera.rank}, initial scale {adapter.vera.initial_scale:g}"
    if adapter.kind is AdapterKind.ia3:
        return "IA3"
    if adapter.kind is AdapterKind.oft:
        return f"OFT, blocks of {adapter.oft.block_size}"
    if adapter.kind is not AdapterKind.lora:
        return OTHER_KINDS[adapter.kind]
    name = "DoRA" if adapter.dora else "LoRA"
    parts = [f"{name}, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}"]
    parts += ["scaled by alpha / sqrt(rank)"] if adapter.rank_stabilized else []
    parts += [f"initialized by {adapter.init.value}"] if adapter.init is not Init.default else []
    parts += [f"learning rate of B {adapter.lr_ratio:g} times that of A"] if adapter.lr_ratio != 1 else []
    return ", ".join(parts)


def non_default_settings(config: Config) -> dict[str, str]:
    """Return the settings that differ from their defaults, by dotted key; local paths are reduced to their names."""
    found = {}
    for key, value in flatten(redact_values(to_plain(config))):
        known = find_key(key)
        if not key.startswith(ELSEWHERE) and (known is None or to_plain(known.default) != value):
            found[key] = _public_text(value)
    return found


def _public_text(value: Any) -> str:
    """Return a plain value as text without local paths."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_public_text(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(_public_text, value)) + "]"
    if isinstance(value, str):
        return public_name(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
