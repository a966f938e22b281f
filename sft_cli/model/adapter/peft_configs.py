"""What PEFT is told for each kind of adapter: the one table of kinds."""

from collections.abc import Callable, Sequence
from typing import Any

from peft import IA3Config, LoraConfig, OFTConfig, PeftConfig, TaskType, VeraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft_cli.config.schema.adapter import AdapterConfig, AdapterKind, Init
from sft_cli.model.adapter import prompt_learning
from sft_cli.model.adapter.stop_token_rows import trained_rows
from sft_cli.model.adapter.targets import ALL_LINEAR, adapted_layers, expert_stacks, left_out, target_modules, towers


def lora(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """LoRA and what varies it; the matrices begin plain or Gaussian here, see ``adapters.begin``."""
    del seed  # the caller has set it
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
        trainable_token_indices=trained_rows(model, rows, config.modules_to_save) or None,
        fan_in_fan_out=transposed(model),
        **placed(model, config),
    )


def vera(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """VeRA; the shared matrices are saved with it, because a seed may mean others elsewhere."""
    del rows
    return VeraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.vera.rank,
        d_initial=config.vera.initial_scale,
        vera_dropout=config.dropout,
        projection_prng_key=seed,
        save_projection=True,
        fan_in_fan_out=transposed(model),
        target_modules=list(adapted_layers(model, config)),
        modules_to_save=list(config.modules_to_save) or None,
    )


def ia3(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """IA3: scales on the outputs of layers, and on the inputs of those that end a feed-forward block."""
    del rows, seed
    ends = {end for family in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.values() for end in family}
    names = list(adapted_layers(model, config))
    return IA3Config(
        task_type=TaskType.CAUSAL_LM,
        target_modules=names,
        feedforward_modules=[name for name in names if name.endswith(tuple(f".{end}" for end in ends))],
        modules_to_save=list(config.modules_to_save) or None,
        fan_in_fan_out=transposed(model),
    )


def oft(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """OFT with exact rotations (Cayley), not the series that only comes near one."""
    del rows, seed
    return OFTConfig(
        task_type=TaskType.CAUSAL_LM,
        oft_block_size=config.oft.block_size,
        use_cayley_neumann=False,
        **placed(model, config),
    )


def virtual_tokens(model: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> PeftConfig:
    """Trained vectors before every example: see ``virtual``."""
    del rows, seed
    return prompt_learning.virtual_tokens_config(model, config)


KINDS: dict[AdapterKind, Callable[[PreTrainedModel, AdapterConfig, Sequence[int], int], PeftConfig]] = {
    AdapterKind.lora: lora,
    AdapterKind.vera: vera,
    AdapterKind.ia3: ia3,
    AdapterKind.oft: oft,
    AdapterKind.prefix: virtual_tokens,
    AdapterKind.prompt: virtual_tokens,
    AdapterKind.llama_adapter: virtual_tokens,
}
"""What PEFT is told for each kind: of a base, the settings, embedding rows that are trained, and a seed."""


def placed(model: PreTrainedModel, config: AdapterConfig) -> dict[str, Any]:
    """Where the adapter sits: arguments that the configs of PEFT share."""
    targets = target_modules(model, config.target_modules)
    # PEFT takes a name to mean the layers of a vision tower too.
    excluded = [*(left_out(model, config) if targets == ALL_LINEAR else []), *towers(model)]
    if targets == ALL_LINEAR and expert_stacks(model):
        # PEFT itself would add the experts and the router to all-linear.
        targets, excluded = list(adapted_layers(model, config)), []
    return {
        "target_modules": targets,
        "exclude_modules": excluded or None,
        "modules_to_save": list(config.modules_to_save) or None,
    }


def transposed(model: PreTrainedModel) -> bool:
    """Whether linear layers keep their weights as ``(in, out)``, as GPT-2's do."""
    return any(isinstance(layer, Conv1D) for layer in model.modules())
