"""PEFT's config for each kind of adapter."""

from collections.abc import Callable, Sequence
from typing import Any

from peft import IA3Config, LoraConfig, OFTConfig, PeftConfig, TaskType, VeraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import ALL_LINEAR, AdapterConfig, AdapterKind, Init
from sft_cli.model.adapter import prompt_learning
from sft_cli.model.adapter.stop_token_rows import trainable_token_indices
from sft_cli.model.adapter.targets import (
    adapted_layers,
    excluded_from_all_linear,
    peft_target_modules,
    stacked_expert_names,
    tower_modules,
)


def lora_config(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """Return the config of LoRA and its variants; ``add.initialize_adapter`` applies the other initializations."""
    del seed  # the caller has set torch's seed
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  PEFT only multiplies with it
        lora_dropout=config.dropout,
        use_rslora=config.rank_stabilized,
        use_dora=config.dora,
        init_lora_weights="gaussian" if config.init is Init.gaussian else True,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),  # pyright: ignore[reportArgumentType]
        target_parameters=list(config.target_parameters) or None,
        trainable_token_indices=trainable_token_indices(model, rows, config.modules_to_save) or None,
        fan_in_fan_out=has_conv1d(model),
        **target_kwargs(model, config),
    )


def vera_config(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """Return the config of VeRA. Its shared matrices are saved: other machines may draw other ones from the seed."""
    del rows
    return VeraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.vera.rank,
        d_initial=config.vera.initial_scale,
        vera_dropout=config.dropout,
        projection_prng_key=seed,
        save_projection=True,
        fan_in_fan_out=has_conv1d(model),
        target_modules=list(adapted_layers(model, config)),
        modules_to_save=list(config.modules_to_save) or None,
    )


def ia3_config(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """Return the config of IA3: scales on layer outputs, and on the inputs of the last layer of feed-forward blocks."""
    del rows, seed
    ends = {end for family in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.values() for end in family}
    names = list(adapted_layers(model, config))
    return IA3Config(
        task_type=TaskType.CAUSAL_LM,
        target_modules=names,
        feedforward_modules=[name for name in names if name.endswith(tuple(f".{end}" for end in ends))],
        modules_to_save=list(config.modules_to_save) or None,
        fan_in_fan_out=has_conv1d(model),
    )


def oft_config(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """Return the config of OFT with exact rotations (Cayley) instead of an approximation by a series."""
    del rows, seed
    return OFTConfig(
        task_type=TaskType.CAUSAL_LM,
        oft_block_size=config.oft.block_size,
        use_cayley_neumann=False,
        **target_kwargs(model, config),
    )


def prompt_learning_config(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """Return the config of trained vectors before every example; see ``prompt_learning``."""
    del rows, seed
    return prompt_learning.virtual_tokens_config(model, config)


PEFT_CONFIGS: dict[AdapterKind, Callable[[PreTrainedModel, AdapterConfig, Sequence[int], int], PeftConfig]] = {
    AdapterKind.lora: lora_config,
    AdapterKind.vera: vera_config,
    AdapterKind.ia3: ia3_config,
    AdapterKind.oft: oft_config,
    AdapterKind.prefix: prompt_learning_config,
    AdapterKind.prompt: prompt_learning_config,
    AdapterKind.llama_adapter: prompt_learning_config,
}
"""For each kind, a function of base, settings, ids of trained embedding rows and seed that returns PEFT's config."""


def target_kwargs(model: PreTrainedModel, config: AdapterConfig) -> dict[str, Any]:
    """Return the arguments that select the adapted layers; several configs of PEFT share them."""
    targets = peft_target_modules(model, config.target_modules)
    # In PEFT, a name also selects the layers of a vision tower.
    excluded = [*(excluded_from_all_linear(model, config) if targets == ALL_LINEAR else []), *tower_modules(model)]
    if targets == ALL_LINEAR and stacked_expert_names(model):
        # PEFT itself would add the experts and the router to all-linear.
        targets, excluded = list(adapted_layers(model, config)), []
    return {
        "target_modules": targets,
        "exclude_modules": excluded or None,
        "modules_to_save": list(config.modules_to_save) or None,
    }


def has_conv1d(model: PreTrainedModel) -> bool:
    """Return whether linear layers store their weights as ``(in, out)``, as GPT-2 does."""
    return any(isinstance(layer, Conv1D) for layer in model.modules())
