"""TRL: the arguments of ``trl sft``, in YAML or on a command line."""

from collections.abc import Mapping
from typing import Any

from sft_cli.importing import steps, training
from sft_cli.importing.sources import join_path, set_split, source_name
from sft_cli.importing.translation import Entry, Outcome, Translation

MARKS = frozenset(
    ("dataset_name", "use_peft", "assistant_only_loss", "completion_only_loss", "dataset_train_split",
     "dataset_test_split", "dataset_text_field", "chat_template_path", "packing_strategy",
     "use_bnb_nested_quant", "max_length", "max_seq_length", "model_revision", "eos_token", "padding_free",
     "dataset_streaming", "dataset_config", "lora_task_type", "test_split_size", "loss_type")
)  # fmt: skip
"""Keys that TRL has and the others have not."""
DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch_fused",
    "max_length": 1024,
    "dataset_train_split": "train",
}
_LORA = {
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "rslora": "use_rslora",
    "dora": "use_dora",
}
_OTHER_TRAINERS = ("beta", "reward_funcs", "num_generations", "reward_model_path",
                   "ref_model_init_kwargs", "max_prompt_length", "reference_free", "missing_eos_penalty",
                   "kl_coef", "vllm_mode", "scale_rewards")  # fmt: skip
_LOSSES = ("nll", "chunked_nll", "dft")


def not_supervised(values: Mapping[str, Any]) -> str | None:
    """Return the objective of a config that is not supervised fine-tuning; None for one that is."""
    loss = values.get("loss_type")
    if loss is not None and loss not in _LOSSES:
        return f"loss_type: {loss}"
    return next((f"{key}: {values[key]}" for key in _OTHER_TRAINERS if values.get(key) is not None), None)


def translate(t: Translation) -> None:
    """Translate the keys whose unit or meaning is not that of a key of the same name."""
    t.put("model.path", t.get("model_name_or_path"), "model_name_or_path")
    if (revision := t.get("model_revision")) not in (None, "main"):
        t.set("model.revision", str(revision), "model_revision")
    elif t.has("model_revision"):
        t.same("model_revision", why="main is the default of the hub")
    length = "max_length" if not t.has("max_seq_length") else "max_seq_length"
    packing = "packing" if t.get("packing") else None
    steps.translate_batch(t, "per_device_train_batch_size", "gradient_accumulation_steps", packing, length)
    t.same("packing", why="several examples share a row, and none attends to another")
    steps.translate_max_steps(t)
    steps.translate_epochs(t, "num_train_epochs")
    steps.translate_warmup(t)
    t.put("trainer.lr", t.get("learning_rate"), "learning_rate")
    training.translate_schedule(t, "lr_scheduler_type")
    _adapter(t)
    training.translate_sharding(t, "optim")
    training.translate_optimizer(t, "optim", bool(t.get("use_peft")))
    if not t.get("fp16"):
        t.defaults = {"bf16": True, **t.defaults}
    training.translate_precision(t, "float32")
    if length in t.config.values and t.config.values[length] is None:
        t.seen(length)
        t.entries.append(Entry((length,), Outcome.none, (), steps.NO_LIMIT))
    else:
        steps.translate_length(t, length, "truncate", "longer rows are cut there")
    if str(t.get("truncation_mode")) == "keep_end":
        t.put("data.overflow", "keep_end", "truncation_mode", why="whole turns are removed, not tokens")
    elif t.has("truncation_mode"):
        t.put("data.overflow", t.get("truncation_mode"), "truncation_mode")
    _datasets(t)
    _masks(t)
    steps.translate_cadence(t, "eval", "trainer.eval_every")
    steps.translate_cadence(t, "save", "trainer.save_every")
    training.translate_weights(t, _evaluates(t))
    _others(t)


def _evaluates(t: Translation) -> bool:
    """Return whether the config evaluates on held-out rows."""
    return str(t.get("eval_strategy") or "no").lower() not in ("no", "false") or t.has("test_split_size")


def _adapter(t: Translation) -> None:
    """Set the trained parameters and the storage of the base."""
    if t.get("use_peft"):
        t.choose("adapter", "lora", "use_peft")
        t.defaults = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, **t.defaults}
        training.translate_lora(t, kind="use_peft", names=_LORA)
        if not t.has("lora_target_modules"):
            why = "PEFT's table of the model's type, often q_proj and v_proj alone; here all linear layers"
            t.change("adapter.target_modules", ["all-linear"], "lora_target_modules (not set)", why=why)
    else:
        t.choose("adapter", "none", "use_peft")
        t.none(*_LORA.values(), why="use_peft is off: all weights are trained")
    if t.has("lora_task_type"):
        t.same("lora_task_type", why="language modelling, as here")
    four, eight = t.get("load_in_4bit"), t.get("load_in_8bit")
    kind = "int8" if eight else str(t.get("bnb_4bit_quant_type") or "nf4") if four else "none"
    t.choose("quant", kind, "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type")
    if four:
        t.set("quant.double_quant", bool(t.get("use_bnb_nested_quant")), "use_bnb_nested_quant")


def _datasets(t: Translation) -> None:
    """Set the source of rows, or several."""
    entries = t.get("datasets")
    if isinstance(entries, list):
        t.seen("datasets")
        for place, entry in enumerate(entries):
            _source(t, dict(entry) if isinstance(entry, Mapping) else {"path": entry}, f"datasets.{place}")
        t.none("dataset_name", why="datasets takes precedence")
    elif t.has("dataset_name"):
        path, split = str(t.get("dataset_name")), t.get("dataset_train_split")
        name = source_name(path, ())
        t.set(f"data.mix.{name}.path", path, "dataset_name")
        if t.has("dataset_config"):
            t.set(f"data.mix.{name}.name", str(t.get("dataset_config")), "dataset_config")
        set_split(t, name, split, "dataset_train_split")
        if _evaluates(t) and not t.has("test_split_size"):
            t.set(f"data.mix.{name}.validation_split", str(t.get("dataset_test_split") or "test"), "dataset_test_split")
        else:
            t.none("dataset_test_split", why="it is not read there: eval_strategy is no")
        if t.get("dataset_streaming"):
            t.set(f"data.mix.{name}.stream", True, "dataset_streaming")
            t.ask(f"data.mix.{name}.max_rows=N", "dataset_streaming", why="a stream is read up to a number of rows")
        if t.get("dataset_text_field") not in (None, "text"):
            t.set(f"data.mix.{name}.format", "text", "dataset_text_field")
            t.set(f"data.mix.{name}.columns", {"text": str(t.get("dataset_text_field"))}, "dataset_text_field")
    size = t.number("test_split_size")
    if size is not None and size >= 1:
        t.set("data.val_rows", int(size), "test_split_size")
    else:
        t.set("data.val_fraction", size or 0, "test_split_size")


def _source(t: Translation, entry: Mapping[str, Any], key: str) -> None:
    """Set one of several sources."""
    path = str(entry.get("path"))
    files = entry.get("data_files")
    path = join_path(path, str(files)) if isinstance(files, str) else path
    name = source_name(path, t.values.get("data", {}).get("mix", {}))
    at = f"data.mix.{name}"
    t.set(f"{at}.path", path, f"{key}.path", *([f"{key}.data_files"] if files else []))
    if entry.get("name"):
        t.set(f"{at}.name", str(entry["name"]), f"{key}.name")
    if entry.get("split") not in (None, "train"):
        set_split(t, name, entry["split"], f"{key}.split")
    if entry.get("fraction") is not None:
        t.set(f"{at}.weight", t.as_number(entry["fraction"], f"{key}.fraction"), f"{key}.fraction")
        t.set("data.strategy", "equal", f"{key}.fraction", why="shares of the mix, regardless of size")
    for name in entry:
        if name not in ("path", "data_files", "name", "split", "fraction"):
            why = "columns that no format reads are listed or ignored" if name == "columns" else "not read here"
            t.none(f"{key}.{name}", why=why)


def _masks(t: Translation) -> None:
    """Set the trained tokens; without a choice they follow from the rows there."""
    if t.get("assistant_only_loss"):
        t.set("data.train_on", "assistant", "assistant_only_loss")
        t.same("completion_only_loss", why="assistant turns are trained")
    elif t.get("completion_only_loss"):
        t.set(
            "data.train_on", "assistant", "completion_only_loss", "assistant_only_loss", why="the completion of a row"
        )
    elif t.get("completion_only_loss") is False:
        t.set("data.train_on", "all", "completion_only_loss", "assistant_only_loss")
    else:
        why = (
            "TRL trains the completion of rows with prompt and completion, and every token of other rows: for those add"
        )
        keys = ("assistant_only_loss", "completion_only_loss")
        t.change("data.train_on", "assistant", *keys, "(neither is set)", why=f"{why} data.train_on=all")


def _others(t: Translation) -> None:
    """Translate keys whose counterpart depends on their value."""
    if (path := t.get("chat_template_path")) is not None:
        text = str(path)
        if text.endswith((".jinja", ".jinja2", ".j2", ".txt")):
            t.set("template.path", text, "chat_template_path")
        else:
            t.change(
                "model.tokenizer", text, "chat_template_path", why="the template of another tokenizer, with its tokens"
            )
    if (value := t.get("gradient_checkpointing")) is not None:
        t.put("speed.gradient_checkpointing", "full" if value else "none", "gradient_checkpointing")
    if (loss := t.get("loss_type")) is not None:
        t.set("loss.dft", loss == "dft", "loss_type")
    t.none("env", why="set these variables in the shell")
    if t.has("eos_token"):
        t.none("eos_token", why="the stop token of a turn is that of the template, and is checked in every row")
    if t.has("dtype"):
        t.put("model.dtype", str(t.get("dtype")), "dtype")
    if t.has("run_name"):
        t.none("run_name", why="the name of a tracker's run; here run_name is part of a directory")
    t.none("resume_from_checkpoint", why="a run is resumed by its directory: sft train --resume RUN")
