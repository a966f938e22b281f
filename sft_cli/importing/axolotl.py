"""axolotl: one YAML of flat keys, with a list of data sets."""

from collections.abc import Mapping
from typing import Any

from sft_cli.config.keys.unsupported import UNSUPPORTED
from sft_cli.importing import steps, training
from sft_cli.importing.axolotl_data import translate_datasets
from sft_cli.importing.sources import source_name
from sft_cli.importing.translation import Translation, plain_reason

MARKS = frozenset(
    ("base_model", "sequence_len", "micro_batch_size", "sample_packing", "val_set_size", "num_epochs",
     "lora_target_linear", "train_on_inputs", "evals_per_epoch", "saves_per_epoch", "rl",
     "dataset_prepared_path", "excess_length_strategy", "eval_sample_packing", "pad_to_sequence_len", "test_datasets",
     "pretraining_dataset", "base_model_config", "tokenizer_type", "eot_tokens", "lr_scheduler")
)  # fmt: skip
"""Keys that axolotl alone has."""
DEFAULTS: Mapping[str, Any] = {
    "sequence_len": 512,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_epochs": 1,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.03,
    "weight_decay": 0.0,
    "val_set_size": 0.0,
    "train_on_inputs": False,
}
RESUME = ("resume_from_checkpoint", "auto_resume_from_checkpoints")
_LORA = {
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "rslora": "peft_use_rslora",
    "dora": "peft_use_dora",
}
_LORA_KEYS = (*_LORA.values(), "lora_target_linear", "lora_target_parameters", "loraplus_lr_ratio", "lora_model_dir")


def not_supervised(values: Mapping[str, Any]) -> str | None:
    """Return the objective of a config that is not supervised fine-tuning; None for one that is."""
    if (rl := values.get("rl")) not in (None, "", False):
        return f"rl: {rl}"
    for key in ("reward_model", "process_reward_model", "num_labels", "diffusion"):
        if values.get(key):
            return f"{key}: {values[key]}"
    kinds = [str(entry.get("type")) for entry in values.get("datasets") or [] if isinstance(entry, Mapping)]
    other = [
        kind for kind in kinds if kind.startswith(("bradley_terry", "stepwise_supervised", "ebft", "chatml.", "rwd."))
    ]
    return f"datasets.type: {other[0]}" if other else None


def translate(t: Translation) -> None:
    """Translate the keys whose unit or meaning is not that of a key of the same name."""
    t.put("model.path", t.get("base_model"), "base_model")
    if t.has("tokenizer_config"):
        t.set("model.tokenizer", str(t.get("tokenizer_config")), "tokenizer_config")
    if t.has("base_model_config"):
        same = t.get("base_model_config") == t.get("base_model")
        t.same("base_model_config", why="the model itself") if same else t.none(
            "base_model_config", why="config.json is read from the model"
        )
    _batch_size(t)
    packing = "sample_packing" if t.get("sample_packing") else None
    steps.translate_batch(t, "micro_batch_size", "gradient_accumulation_steps", packing, "sequence_len")
    steps.translate_max_steps(t)
    steps.translate_epochs(t, "num_epochs")
    steps.translate_warmup(t)
    t.put("trainer.lr", _number(t.get("learning_rate")), "learning_rate")
    training.translate_schedule(t, "lr_scheduler")
    _adapter(t)
    training.translate_sharding(t, "optimizer")
    training.translate_optimizer(t, "optimizer", t.has("adapter"))
    training.translate_precision(t, "float32")
    _length(t)
    translate_datasets(t)
    _held_out(t)
    _pretraining(t)
    steps.translate_cadence(t, "eval", "trainer.eval_every")
    steps.translate_cadence(t, "save", "trainer.save_every")
    held_out = bool(t.get("val_set_size")) or bool(t.get("test_datasets"))
    training.translate_weights(t, held_out)
    _others(t)


def _number(value: Any) -> Any:
    """Return the number of a text such as 2e-5, and other values unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _batch_size(t: Translation) -> None:
    """Report ``batch_size``, from which axolotl computes the accumulated steps."""
    size, micro = t.get("batch_size"), t.get("micro_batch_size")
    if not isinstance(size, int) or t.has("gradient_accumulation_steps"):
        t.none("batch_size", why="gradient_accumulation_steps and micro_batch_size decide")
        return
    accumulated = max(1, size // micro) if isinstance(micro, int) and micro > 0 else 1
    values = {**t.config.values, "gradient_accumulation_steps": accumulated}
    t.defaults = {**t.defaults, "gradient_accumulation_steps": values["gradient_accumulation_steps"]}
    t.same("batch_size", why=f"{accumulated} accumulated steps of micro_batch_size")


def _adapter(t: Translation) -> None:
    """Set the adapter and the storage of the base."""
    kind = str(t.get("adapter") or "").lower()
    if kind in ("lora", "qlora"):
        t.choose("adapter", "lora", "adapter")
        t.defaults = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0, **t.defaults}
        training.translate_lora(t, kind="adapter", names=_LORA)
    elif kind:
        t.none("adapter", why=f"{kind}: no adapter here has this name (sft show --keys adapter.kind)")
    else:
        t.choose("adapter", "none", "adapter (empty: all weights)")
        t.none(*_LORA_KEYS, why="there is no adapter: all weights are trained")
    four, eight = t.get("load_in_4bit") or kind == "qlora", t.get("load_in_8bit")
    t.choose("quant", "nf4" if four else "int8" if eight else "none", "load_in_4bit", "load_in_8bit")
    options = t.get("bnb_config_kwargs")
    if isinstance(options, Mapping):
        t.seen("bnb_config_kwargs")
        for name, value in options.items():
            key = f"bnb_config_kwargs.{name}"
            if name == "bnb_4bit_use_double_quant" and four:
                t.set("quant.double_quant", bool(value), key)
            else:
                t.none(key, why="nf4 with double quantization, computed in trainer.dtype")


def _length(t: Translation) -> None:
    """Set the longest example; longer ones are dropped there, unless the config truncates."""
    steps.translate_length(t, "sequence_len", "drop", "longer rows are dropped there")
    if t.has("excess_length_strategy"):
        t.put("data.overflow", t.get("excess_length_strategy"), "excess_length_strategy")


def _held_out(t: Translation) -> None:
    """Set the held-out rows."""
    value, tests = t.number("val_set_size"), t.get("test_datasets")
    if isinstance(tests, list) and tests:
        _test_sets(t, tests)
    elif value is not None and value > 1:
        t.set("data.val_rows", int(value), "val_set_size")
    else:
        t.put("data.val_fraction", value or 0, "val_set_size")


def _test_sets(t: Translation, tests: list[Any]) -> None:
    """Set the held-out rows of each source from ``test_datasets``, in the order of ``datasets``."""
    t.seen("test_datasets")
    t.none("val_set_size", why="test_datasets takes precedence")
    t.set("data.val_fraction", 0, "test_datasets (the only held-out rows)")
    listed = t.get("datasets")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    names = list(t.values.get("data", {}).get("mix", {}))
    for place, test in enumerate(tests):
        key = f"test_datasets.{place}"
        if place >= len(entries) or len(names) != len(entries) or not isinstance(test, Mapping):
            t.none(key, why="held-out rows belong to a source: data.mix.<name>.validation_path=FILE")
            continue
        path, name = str(entries[place].get("path")), names[place]
        if test.get("path") == path and test.get("split") not in (None, entries[place].get("split", "train")):
            t.set(f"data.mix.{name}.validation_split", str(test["split"]), key)
        elif test.get("type") == entries[place].get("type") and test.get("split") in (None, "train"):
            t.set(f"data.mix.{name}.validation_path", str(test.get("data_files") or test.get("path")), key)
        else:
            t.none(key, why="held-out rows have the format of their source: data.mix.<name>.validation_path=FILE")


def _pretraining(t: Translation) -> None:
    """Set sources of plain text, which are replayed here."""
    entries = t.get("pretraining_dataset")
    if entries is None:
        return
    t.seen("pretraining_dataset")
    for place, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        plain = {"path": entry} if isinstance(entry, str) else dict(entry)
        path = str(plain.get("path"))
        name = source_name(path, t.values.get("data", {}).get("mix", {}))
        t.set(f"data.mix.{name}.path", path, f"pretraining_dataset.{place}")
        t.set(f"data.mix.{name}.role", "replay", f"pretraining_dataset.{place}")
        if (column := plain.get("text_column", "text")) != "text":
            t.set(f"data.mix.{name}.columns", {"text": str(column)}, f"pretraining_dataset.{place}.text_column")
        if plain.get("name"):
            t.set(f"data.mix.{name}.name", str(plain["name"]), f"pretraining_dataset.{place}.name")


def _others(t: Translation) -> None:
    """Translate keys whose counterpart depends on another key."""
    if (value := t.get("gradient_checkpointing")) is not None:
        word = "full" if value is True else "none" if value is False else str(value)
        t.put("speed.gradient_checkpointing", word, "gradient_checkpointing")
    loftq = t.get("peft")
    if isinstance(loftq, Mapping) and set(loftq) == {"loftq_config"}:
        t.set("adapter.init", "loftq", "peft")
        if "quant" not in t.choices:
            t.choose("quant", "nf4", "peft (LoftQ)", why="LoftQ starts from the error of 4-bit weights")
    if isinstance(tokens := t.get("tokens"), list):
        t.set("model.add_tokens", [str(token) for token in tokens], "tokens")
    special = t.get("special_tokens")
    if isinstance(special, Mapping) and special.get("additional_special_tokens"):
        added = "special_tokens.additional_special_tokens"
        t.set("model.add_tokens", [str(token) for token in special["additional_special_tokens"]], added)
    if t.get("unfrozen_parameters"):
        if t.has("adapter"):
            t.none("unfrozen_parameters", why="an adapter is trained")
        else:
            t.set("adapter.train", [str(name) for name in t.get("unfrozen_parameters")], "unfrozen_parameters")
    if t.get("dataset_exact_deduplication"):
        t.set("clean.steps", ["leakage", "exact_duplicates"], "dataset_exact_deduplication")
    if t.get("shuffle_merged_datasets") is False:
        t.none("shuffle_merged_datasets", why="rows are in random order, set by trainer.seed; see data.stages")
    elif t.has("shuffle_merged_datasets"):
        t.same("shuffle_merged_datasets", why="rows are in random order, as here")
    if (chat := t.get("chat_template_kwargs")) is not None:
        t.put("template.variables", chat, "chat_template_kwargs")
    t.none("dataset_prepared_path", "tokenized_path", why=plain_reason(UNSUPPORTED["overwrite_cache"]))
    t.none(*RESUME, why="a run is resumed by its directory: sft train --resume RUN")
    if t.has("type_of_model"):
        t.none("type_of_model", why="the type is read from the model's config.json")
