"""The valid keys, and which of them a wrong one was probably meant to be."""

import difflib
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin

from sft_cli.config.schema import Config

ANY_NAME = "<name>"

# What other tools call it. A newcomer brings these names along; difflib alone would lead him astray.
ELSEWHERE = {
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "base_model": "model.path",
    "tokenizer_name": "model.tokenizer",
    "torch_dtype": "model.dtype",
    "bf16": "trainer.dtype=bfloat16",
    "fp16": "trainer.dtype=float16",
    "load_in_4bit": "quant=nf4",
    "load_in_8bit": "quant=int8",
    "use_lora": "adapter=lora",
    "lora_r": "adapter.rank",
    "r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target_modules": "adapter.target_modules",
    "dataset": "data.mix.<name>.path",
    "datasets": "data.mix.<name>.path",
    "dataset_name": "data.mix.<name>.path",
    "data_path": "data.mix.<name>.path",
    "train_file": "data.mix.<name>.path",
    "validation_file": "data.mix.<name>.validation_path",
    "eval_dataset": "data.mix.<name>.validation_path",
    "test_datasets": "data.mix.<name>.validation_path",
    "pretraining_dataset": "data.mix.<name>.role=replay",
    "subset": "data.mix.<name>.name",
    "dataset_config": "data.mix.<name>.name",
    "dataset_config_name": "data.mix.<name>.name",
    "streaming": "data.mix.<name>.stream",
    "buffer_size": "data.mix.<name>.shuffle_buffer",
    "shuffle_buffer_size": "data.mix.<name>.shuffle_buffer",
    "max_samples": "data.mix.<name>.max_rows",
    "max_train_samples": "data.mix.<name>.max_rows",
    "type": "data.mix.<name>.format",
    "ds_type": "data.mix.<name>.format",
    "formatting": "data.mix.<name>.format",
    "field_messages": "data.mix.<name>.columns",
    "dataset_text_field": "data.mix.<name>.columns",
    "mix_strategy": "data.strategy",
    "interleave_probs": "data.mix.<name>.weight",
    "probabilities": "data.mix.<name>.weight",
    "sampling_ratio": "data.mix.<name>.weight",
    "shuffle": "data.stages[].order",
    "shuffle_merged_datasets": "data.stages[].order",
    "group_by_length": "data.stages[].order",
    "curriculum": "data.stages",
    "val_set_size": "data.val_fraction",
    "val_size": "data.val_fraction",
    "test_size": "data.val_fraction",
    "dataset_prepared_path": "prepared_dir",
    "tokenized_path": "prepared_dir",
    "preprocessing_num_workers": "data.workers",
    "dataset_num_proc": "data.workers",
    "dataset_processes": "data.workers",
    "num_proc": "data.workers",
    "train_on_inputs": "data.train_on=all",
    "train_on_prompt": "data.train_on=all",
    "mask_history": "data.train_on=last",
    "roles_to_train": "data.train_on",
    "assistant_only_loss": "data.train_on=assistant",
    "completion_only_loss": "data.train_on=assistant",
    "excess_length_strategy": "data.overflow",
    "truncation": "data.overflow",
    "default_system": "data.system",
    "system_prompt": "data.system",
    "enable_thinking": "template.variables.enable_thinking",
    "chat_template_kwargs": "template.variables",
    "dedup": "clean.steps=[leakage,exact_duplicates]",
    "deduplicate": "clean.steps=[leakage,exact_duplicates]",
    "dataset_exact_deduplication": "clean.steps=[leakage,exact_duplicates]",
    "filters": "clean.steps",
    "chat_template": "template.path",
    "prompt_template": "template.name",
    "template": "template.name",
    "packing": "trainer.tokens_per_micro_batch",
    "sample_packing": "trainer.tokens_per_micro_batch",
    "neat_packing": "trainer.tokens_per_micro_batch",
    "data_seed": "trainer.seed",
    "shuffle_seed": "trainer.seed",
    "learning_rate": "trainer.lr",
    "lr_scheduler": "trainer.schedule",
    "lr_scheduler_type": "trainer.schedule",
    "warmup_steps": "trainer.warmup_ratio",
    "num_train_epochs": "trainer.epochs",
    "num_epochs": "trainer.epochs",
    "batch_size": "trainer.examples_per_step",
    "train_batch_size": "trainer.examples_per_step",
    "micro_batch_size": "trainer.tokens_per_micro_batch",
    "per_device_train_batch_size": "trainer.tokens_per_micro_batch",
    "gradient_accumulation_steps": "trainer.examples_per_step",
    "max_seq_length": "trainer.max_length",
    "max_seq_len": "trainer.max_length",
    "sequence_len": "trainer.max_length",
    "cutoff_len": "trainer.max_length",
    "optim": "trainer.optimizer",
    "grad_clip": "trainer.max_grad_norm",
    "eval_steps": "trainer.eval_every",
    "save_steps": "trainer.save_every",
    "save_total_limit": "trainer.keep_checkpoints",
    "output_dir": "run_dir",
    "output": "run_dir",
}

VALUES_ELSEWHERE = {"gpu": "cuda", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Key:
    """One valid key.

    Attributes:
        name: Dotted; ``<name>`` stands for a name the user chooses.
        kind: Its type, ``str | None`` for example.
        default: What it is when nobody sets it.
        limits: Bounds by name: ``ge``, ``gt``, ``le``, ``lt``.
        section: The dataclass it belongs to.
    """

    name: str
    kind: Any
    default: Any
    limits: Mapping[str, float]
    section: type


def limits(field: Field[Any]) -> Mapping[str, float]:
    """The bounds ``schema.number`` gave the field; none for others."""
    return field.metadata.get("limits", {})


def _keys(section: Any, prefix: str) -> Iterator[Key]:
    """The keys of a section as it is by default; inside another it may differ from what its class says."""
    for field in fields(section):
        name, default = prefix + field.name, vars(section)[field.name]
        if is_dataclass(default):
            yield from _keys(default, f"{name}.")
        elif get_origin(field.type) is dict and is_dataclass(entry := get_args(field.type)[1]):
            assert isinstance(entry, type)
            yield from _keys(entry(), f"{name}.{ANY_NAME}.")
        else:
            yield Key(name, field.type, default, limits(field), type(section))
            if get_origin(field.type) is list and is_dataclass(entry := get_args(field.type)[0]):
                assert isinstance(entry, type)
                yield from _keys(entry(), f"{name}[].")


KEYS = {key.name: key for key in _keys(Config(), "")}


def find(name: str) -> Key | None:
    """The key behind a dotted name: ``data.mix.mine.path`` finds ``data.mix.<name>.path``; None if there is none."""
    parts = name.split(".")
    if parts[:2] == ["data", "mix"] and len(parts) >= 4:
        parts[2] = ANY_NAME
        above = KEYS.get(".".join(parts[:4]))
        if above is not None and holds_texts(above.kind) and len(parts) == 5:
            return Key(name, str, None, {}, above.section)
    return KEYS.get(".".join(parts))


def holds_texts(kind: Any) -> bool:
    """Whether the type is, or may be, a mapping of names to texts."""
    return any(get_origin(part) is dict and get_args(part)[1] is str for part in (kind, *get_args(kind)))


def is_text(kind: Any) -> bool:
    """Whether the type is text, with or without null."""
    return kind is str or (get_origin(kind) in (Union, types.UnionType) and str in get_args(kind))


def nearest(word: str, choices: Collection[str]) -> str | None:
    """The choice spelled most like ``word``, or None."""
    close = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.6)
    return close[0] if close else None


def _as_in(key: str, parts: list[str]) -> str:
    """The key, with the source or the place in the list that the wrong key names."""
    if parts[:2] == ["data", "mix"] and len(parts) > 3:
        return key.replace(ANY_NAME, parts[2])
    return key.replace("[]", f".{parts[2]}") if parts[:2] == ["data", "stages"] and len(parts) > 3 else key


def advice(name: str) -> str:
    """What to do about the unknown key ``name``: the valid one it probably means, or how to list them all."""
    parts = name.split(".")
    valid = [_as_in(key, parts) for key in KEYS]
    if any(key.startswith(f"{name}.") for key in valid):
        return "`sft show --keys` lists every key"
    if (meant := ELSEWHERE.get(parts[-1])) is not None:
        return f"here it is called {_as_in(meant, parts)}"
    if same := [key for key in valid if key.split(".")[-1] == parts[-1] and key.count(".") <= 1]:
        return f"did you mean {' or '.join(same)}?"
    siblings = [key for key in valid if key.rpartition(".")[0] == name.rpartition(".")[0]]
    if (meant := nearest(name, siblings) or nearest(name, valid)) is not None:
        return f"did you mean {meant}?"
    leaves = {key.split(".")[-1]: key for key in reversed(valid)}
    if (leaf := nearest(parts[-1], leaves)) is not None:
        return f"did you mean {leaves[leaf]}?"
    return "`sft show --keys` lists every key"
