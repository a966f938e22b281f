"""LLaMA-Factory: one YAML of the arguments of ``llamafactory-cli train``."""

from collections.abc import Mapping
from typing import Any

from sft_cli.config.keys.unsupported import UNSUPPORTED
from sft_cli.importing import steps, training
from sft_cli.importing.llama_factory_data import translate_datasets
from sft_cli.importing.sources import choose_template
from sft_cli.importing.translation import Translation, plain_reason

MARKS = frozenset(
    ("stage", "finetuning_type", "cutoff_len", "template", "lora_rank", "lora_target", "do_train", "dataset_dir",
     "dataset", "max_samples", "val_size", "plot_loss", "overwrite_cache", "preprocessing_num_workers",
     "quantization_bit", "adapter_name_or_path", "mask_history", "train_on_prompt", "neat_packing",
     "tokenized_path", "pure_bf16", "quantization_method", "freeze_trainable_layers", "pissa_init")
)  # fmt: skip
"""Keys that LLaMA-Factory alone has."""
DEFAULTS: Mapping[str, Any] = {
    "finetuning_type": "lora",
    "cutoff_len": 2048,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch_fused",
    "val_size": 0.0,
    "dataset_dir": "data",
}
_LORA = {
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "lora_target",
    "modules_to_save": "additional_target",
    "rslora": "use_rslora",
    "dora": "use_dora",
}
_ADAPTER_KEYS = (*_LORA.values(), "loraplus_lr_ratio", "pissa_init", "adapter_name_or_path")
_STAGES = {"pt": "pretraining", "rm": "a reward model", "ppo": "PPO", "dpo": "DPO", "kto": "KTO"}
_NO_TEMPLATE = ("default", "fewshot", "cpm", "original")


def not_supervised(values: Mapping[str, Any]) -> str | None:
    """Return the objective of a config that is not supervised fine-tuning; None for one that is."""
    stage = values.get("stage", "sft")
    if stage in (None, "sft"):
        return None
    return f"stage: {stage}" + (f" ({_STAGES[stage]})" if stage in _STAGES else "")


def translate(t: Translation) -> None:
    """Translate the keys whose unit or meaning is not that of a key of the same name."""
    t.put("model.path", t.get("model_name_or_path"), "model_name_or_path")
    t.same("stage", why="supervised fine-tuning, as here")
    packing = next((key for key in ("neat_packing", "packing") if t.get(key)), None)
    steps.translate_batch(t, "per_device_train_batch_size", "gradient_accumulation_steps", packing, "cutoff_len")
    t.same("packing", "neat_packing", why="several examples share a row, and none attends to another")
    steps.translate_max_steps(t)
    steps.translate_epochs(t, "num_train_epochs")
    steps.translate_warmup(t)
    t.put("trainer.lr", t.get("learning_rate"), "learning_rate")
    training.translate_schedule(t, "lr_scheduler_type")
    _adapter(t)
    training.translate_sharding(t, "optim")
    _optimizer(t)
    _precision(t)
    steps.translate_length(t, "cutoff_len", "truncate", "longer rows are cut there")
    _masks(t)
    _template(t)
    translate_datasets(t)
    steps.translate_cadence(t, "eval", "trainer.eval_every")
    steps.translate_cadence(t, "save", "trainer.save_every")
    training.translate_weights(t, bool(t.get("val_size")) or t.has("eval_dataset"))
    _others(t)


def _adapter(t: Translation) -> None:
    """Set the trained parameters and the storage of the base."""
    kind = str(t.get("finetuning_type"))
    if kind == "lora":
        t.choose("adapter", "lora", "finetuning_type")
        rank = t.number("lora_rank") or 8
        t.defaults = {"lora_rank": 8, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "lora_target": "all", **t.defaults}
        training.translate_lora(t, kind="finetuning_type", names=_LORA)
        if t.get("pissa_init"):
            t.set("adapter.init", "pissa", "pissa_init")
        t.none("pissa_iter", why="the singular parts are exact here, not found by iterations")
        t.none("pissa_convert", why="the adapter is saved as it is; sft merge gives one model")
    elif kind == "oft":
        t.choose("adapter", "oft", "finetuning_type")
        if t.has("oft_block_size"):
            t.set("adapter.oft.block_size", t.get("oft_block_size"), "oft_block_size")
        training.translate_lora(t, kind="finetuning_type", names={**dict.fromkeys(_LORA, "-"), "targets": "oft_target"})
    else:
        t.choose("adapter", "none", "finetuning_type")
        t.none(*_ADAPTER_KEYS, why="there is no adapter: all weights are trained")
        keys = tuple(
            key for key in t.config.values if key.startswith("freeze_trainable") or key == "freeze_extra_modules"
        )
        if kind == "freeze":
            t.ask(
                "adapter.train=[REGEX]",
                "finetuning_type",
                *keys,
                why="layers are named here, not counted; else all are trained",
            )
    _quantization(t)


def _optimizer(t: Translation) -> None:
    """Set the optimizer, for which Muon has a switch."""
    adapted = str(t.get("finetuning_type")) not in ("full", "freeze")
    if not t.get("use_muon"):
        training.translate_optimizer(t, "optim", adapted)
    elif adapted:
        t.none("use_muon", why="Muon trains the matrices of the model itself, not an adapter; AdamW is taken")
    else:
        t.set("trainer.optimizer", "muon", "use_muon", "optim")


def _quantization(t: Translation) -> None:
    """Set the storage of the base."""
    bits = t.get("quantization_bit")
    if bits is None:
        return
    method = str(t.get("quantization_method") or "bnb")
    if method not in ("bnb", "bitsandbytes") or bits not in (4, 8):
        t.none(
            "quantization_bit", "quantization_method", why=f"{method} with {bits} bits: quant is nf4, fp4 or int8 here"
        )
        return
    kind = "int8" if bits == 8 else "fp4" if t.get("quantization_type") == "fp4" else "nf4"
    t.choose("quant", kind, "quantization_bit", "quantization_method", "quantization_type")
    if bits == 4 and t.get("double_quantization") is not None:
        t.set("quant.double_quant", bool(t.get("double_quantization")), "double_quantization")


def _precision(t: Translation) -> None:
    """Set the type of the computation and of the weights."""
    if t.get("pure_bf16"):
        t.set("trainer.dtype", "bfloat16", "pure_bf16", "bf16")
        t.set("model.dtype", "bfloat16", "pure_bf16")
    else:
        training.translate_precision(t, "auto")


def _masks(t: Translation) -> None:
    """Set the trained tokens."""
    if t.get("train_on_prompt"):
        t.set("data.train_on", "all", "train_on_prompt")
    elif t.get("mask_history"):
        t.set("data.train_on", "last", "mask_history")
    else:
        t.set("data.train_on", "assistant", "train_on_prompt", "mask_history")


def _template(t: Translation) -> None:
    """Choose the template, its system message and its variables."""
    name = t.get("template")
    if name in _NO_TEMPLATE:
        t.none("template", why=f"{name}: its text is in no template here; the tokenizer's own is taken")
    elif name is not None:
        choose_template(t, name, "template", "llama-factory")
    if (system := t.get("default_system")) is not None:
        t.set("data.system", str(system), "default_system")
    if (thinking := t.get("enable_thinking")) is not None:
        t.put("template.variables", {"enable_thinking": bool(thinking)}, "enable_thinking")
    if t.get("preserve_thinking"):
        t.set("data.thinking", "keep", "preserve_thinking")


def _others(t: Translation) -> None:
    """Translate keys whose counterpart depends on their value."""
    if t.get("disable_gradient_checkpointing"):
        t.set("speed.gradient_checkpointing", "none", "disable_gradient_checkpointing")
    elif t.has("disable_gradient_checkpointing"):
        t.same("disable_gradient_checkpointing", why="as few layers as fit are recomputed")
    t.none("run_name", why="the name of a tracker's run; here run_name is part of a directory")
    if (seconds := t.get("ddp_timeout")) is not None:
        _timeout(t, seconds)
    for key in ("new_special_tokens", "add_special_tokens", "add_tokens"):
        if t.has(key):
            t.set("model.add_tokens", training.split_names(t.get(key)), key)
    t.none("dataset_prepared_path", "tokenized_path", why=plain_reason(UNSUPPORTED["overwrite_cache"]))
    t.none("resume_from_checkpoint", why="a run is resumed by its directory: sft train --resume RUN")


def _timeout(t: Translation, seconds: Any) -> None:
    """Set the waiting time of processes, in minutes; a year there stands for none."""
    if not isinstance(seconds, int | float) or seconds > 10**6:
        t.none("ddp_timeout", why="no limit there: preparation is not waited for here, and 30 minutes are enough")
    else:
        minutes = max(1, round(seconds / 60))
        t.set("distributed.timeout_minutes", minutes, "ddp_timeout", why=f"{seconds:g} seconds")
