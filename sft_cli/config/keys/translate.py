"""Translate keys of other tools whose unit differs here, or whose value decides the answer."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sft_cli.config.files.search_path import package_dir
from sft_cli.config.keys.aliases import KEY_ALIASES
from sft_cli.config.keys.typos import format_typed, override_word, shell_quote
from sft_cli.run_dir import latest_runs

DATA_FILE = re.compile(r".*\.(jsonl?|ndjson|csv|tsv|parquet|arrow|txt)(\.(gz|zst|bz2|xz))?", re.IGNORECASE)
"""Names of files that contain rows."""
_OFF = (False, None, "no", "none", "false", "off")
_PER_DEVICE = ("micro_batch_size", "per_device_train_batch_size", "per_gpu_train_batch_size", "device_batch_size")
_ACCUMULATED = ("gradient_accumulation_steps", "grad_accum_steps", "accumulate_grad_batches", "gradient_accumulation")
BATCH = (*_PER_DEVICE, *_ACCUMULATED)
"""Keys whose product is the number of examples of one optimizer step on one device."""


def is_data_path(text: str) -> bool:
    """Return whether a text names rows: a file of a known kind, a path, an address, a hub id or a pattern."""
    return DATA_FILE.fullmatch(text) is not None or "/" in text or "*" in text


def translate_batch_size(values: Mapping[str, Any]) -> str:
    """Return one answer, with the arithmetic, for all unknown keys of ``BATCH`` in a config."""
    values_by_name = {_leaf(key): value for key, value in values.items()}
    micro = next((values_by_name[name] for name in _PER_DEVICE if name in values_by_name), None)
    steps = next((values_by_name[name] for name in _ACCUMULATED if name in values_by_name), None)
    numbers = [value for value in (steps, micro) if isinstance(value, int) and value > 0]
    product = numbers[0] * numbers[-1] if len(numbers) == 2 else numbers[0] if numbers else None
    terms = " x ".join(
        str(value) if isinstance(value, int) else name
        for name, value in (("accumulation steps", steps), ("examples per device", micro))
    )
    rule = f"trainer.examples_per_step counts the examples of one optimizer step over all GPUs: {terms} x GPUs"
    if product is None:
        return f"{rule}; memory is set by speed.tokens_per_micro_batch"
    both = "both" if len(values) > 1 else "it"
    assumed = "" if len(numbers) == 2 else f", with {'1 example a device' if micro is None else '1 step accumulated'}"
    return f"{rule}; on one GPU{assumed} write trainer.examples_per_step={product} and remove {both}"


def translate_by_value(name: str, value: Any, source: str) -> str | None:
    """Return the answer to a key that depends on its value; None for a key without an answer.

    Args:
        name: Last part of the other tool's key.
        value: The value that was typed.
        source: Name of the source of rows to use in the answer.
    """
    answer = _SPECIAL.get(name)
    return answer(value, source) if answer else None


def translate_constant(meant: str, value: Any) -> str:
    """Return the answer to a key whose counterpart includes the value: ``load_in_4bit`` is ``quant=nf4``, if true."""
    off = value in _OFF or (isinstance(value, str) and value.lower() in _OFF)
    return f"remove it; set to true, it is called {meant} here" if off else f"here it is called {meant}"


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _resume(value: Any, _: str) -> str:
    """Return the answer to a key that names a run or checkpoint to resume."""
    named = str(value) if isinstance(value, str) and value.lower() not in ("true", "auto", "latest") else ""
    path = re.sub(r"/checkpoints(/.*)?$", "", named.rstrip("/")) or next(iter(latest_runs()), "DIR")
    return f"resume a run by its directory: sft train --resume {shell_quote(path)}"


def _seconds(value: Any, _: str) -> str:
    minutes = max(1, round(value / 60)) if isinstance(value, int | float) and value > 0 else "MINUTES"
    return f"here it is called distributed.timeout_minutes, in minutes: write distributed.timeout_minutes={minutes}"


def _max_length(value: Any, _: str) -> str:
    """Return the answer to a maximum length of a tool that truncates longer rows."""
    return (
        f"here it is called trainer.max_length: write {override_word('trainer.max_length', value)}, with"
        " data.overflow=truncate to cut longer rows as there (left out, they are an error)"
    )


def _truncation(value: Any, _: str) -> str:
    off = value in _OFF or str(value).lower() in ("do_not_truncate", "no", "none", "false")
    return f"here it is called data.overflow: write data.overflow={'error' if off else 'truncate'}"


def _warmup(value: Any, _: str) -> str:
    return (
        "the warm-up is a share of all steps: remove it for 3%, or divide, trainer.warmup_ratio is"
        f" {format_typed(value)} / (number of steps)"
    )


def _beta(place: int) -> Callable[[Any, str], str]:
    def of(value: Any, _: str) -> str:
        """Return the advice for one of the two betas."""
        betas = [0.9, 0.999]
        betas[place] = value if isinstance(value, int | float) else betas[place]
        return f"here both are one key: write {override_word('trainer.betas', betas)}"

    return of


def _cadence(key: str) -> Callable[[Any, str], str]:
    def of(value: Any, _: str) -> str:
        """Return the advice for a key that counts steps."""
        if isinstance(value, int) and value > 0:
            return f"here it is called {key}: write {key}={value}"
        return f"remove it for the end of every epoch, or count in steps: {key}=N"

    return of


def _held_out(value: Any, _: str) -> str:
    if isinstance(value, int) and value > 1:
        return f"here a number of rows is called data.val_rows: write data.val_rows={value}"
    return f"here it is called data.val_fraction: write {override_word('data.val_fraction', value)}"


def _targets(value: Any, _: str) -> str:
    every = str(value).strip("[]'\" ") in ("all", "all-linear", "all_linear")
    listed = (
        value if isinstance(value, list) else [part for part in re.split(r"[,\s]+", str(value).strip("[]")) if part]
    )
    names = ["all-linear"] if every else listed
    return f"here it is called adapter.target_modules: write {override_word('adapter.target_modules', names)}"


def _switch(on: str, off: str) -> Callable[[Any, str], str]:
    def of(value: Any, _: str) -> str:
        return f"here it is called {off if value in _OFF else on}"

    return of


def _recipe(value: Any, _: str) -> str:
    named = isinstance(value, str) and value
    return (
        f"a file of settings is a recipe: write {override_word('recipe', value)}" if named else "write recipe=FILE.yaml"
    )


def _adapter(value: Any, _: str) -> str:
    text = str(value).lower()
    kind = {"full": "none", "freeze": "none", "qlora": "lora quant=nf4"}.get(text, text)
    known = kind.partition(" ")[0] in _options("adapter")
    return f"here it is a choice: write adapter={kind}" if known else f"choose adapter= one of {_listed('adapter')}"


def _options(group: str) -> list[str]:
    """Return the names of the package's options of a group."""
    return sorted(file.stem for file in (package_dir("configs") / group).glob("*.yaml"))


def _listed(group: str) -> str:
    return ", ".join(_options(group))


def _template(value: Any, _: str) -> str:
    text = str(value)
    if text.endswith(".jinja") or "/" in text:
        return f"here a template file is called template.path: write {override_word('template.path', text)}"
    if text.startswith("{") or "{%" in text:
        return "write the template into a file and name it: template.path=FILE.jinja"
    if text in _options("template") and text != "auto":
        return f"here it is a choice: write template={text}"
    return f"remove it: the tokenizer's own template is taken, or choose template= one of {_listed('template')}"


def _data(value: Any, source: str) -> str:
    """Return the answer to ``datasets: [{path: a.jsonl, type: alpaca}]`` or ``dataset: a.jsonl``."""
    entries = value if isinstance(value, list) else [value]
    paths = [entry.get("path") if isinstance(entry, Mapping) else entry for entry in entries]
    paths = [str(path) for path in paths if path]
    if not paths:
        return f"each source of rows has a name of your choice: data.mix.{source}.path=FILE"
    names = [source] if len(paths) == 1 else [re.sub(r"\W", "_", Path(path).name.partition(".")[0]) for path in paths]
    words = [override_word(f"data.mix.{name}.path", path) for name, path in zip(names, paths, strict=True)]
    return f"here it is called data.mix.<name>.path: write {' '.join(words)}"


def _columns(field: str) -> Callable[[Any, str], str]:
    def of(value: Any, source: str) -> str:
        renamed = override_word(f"data.mix.{source}.columns", {field: value})
        return f"columns are mapped from the names that the format expects: {renamed}"

    return of


def _stage(value: Any, _: str) -> str:
    if str(value).lower() in ("sft", "train"):
        return "remove it: supervised fine-tuning is what sft train does (data.stages is a curriculum)"
    return f"remove it: this is supervised fine-tuning only, no {value}"


def _order(_: Any, __: str) -> str:
    return "remove it: rows are in random order, set by trainer.seed; another order is a key of data.stages"


def _weights(value: Any, source: str) -> str:
    if isinstance(value, int | float):
        return f"here it is called data.mix.<name>.weight: write data.mix.{source}.weight={format_typed(value)}"
    return "each source has its own: data.mix.<name>.weight=NUMBER"


def _sharded(value: Any, _: str) -> str:
    zero2 = ("2" in str(value) and "zero" in str(value).lower()) or "grad_op" in str(value)
    return f"here it is a choice: write distributed={'fsdp_zero2' if zero2 else 'fsdp'}"


def _variables(value: Any, _: str) -> str:
    if isinstance(value, Mapping):
        return f"here it is called template.variables: write {override_word('template.variables', dict(value))}"
    return "here it is called template.variables: write 'template.variables={enable_thinking: false}'"


_SPECIAL: dict[str, Callable[[Any, str], str]] = {
    **dict.fromkeys(("resume", "resume_from", "resume_from_checkpoint", "auto_resume_from_checkpoints"), _resume),
    **dict.fromkeys(
        ("continue", "continue_from", "checkpoint", "ckpt", "ckpt_path", "restore", "load_checkpoint"), _resume
    ),
    **dict.fromkeys(("ddp_timeout", "nccl_timeout", "distributed_timeout"), _seconds),
    **dict.fromkeys(("warmup_steps", "num_warmup_steps", "lr_warmup_steps"), _warmup),
    **dict.fromkeys(("cutoff_len", "max_seq_length", "max_seq_len", "model_max_length"), _max_length),
    **dict.fromkeys(("truncation", "truncate"), _truncation),
    "adam_beta1": _beta(0),
    "adam_beta2": _beta(1),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), _cadence("trainer.eval_every")),
    "save_strategy": _cadence("trainer.save_every"),
    **dict.fromkeys(("val_set_size", "val_size", "test_size", "validation_split_percentage"), _held_out),
    **dict.fromkeys(("finetuning_type", "peft_type", "train_type", "tuner_type"), _adapter),
    **dict.fromkeys(("chat_template", "prompt_template", "template"), _template),
    **dict.fromkeys(("dataset", "datasets", "train_dataset", "train_data", "training_data"), _data),
    "field_messages": _columns("messages"),
    **dict.fromkeys(("dataset_text_field", "text_column"), _columns("text")),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), _targets),
    **dict.fromkeys(("config", "config_file", "config_path", "cfg", "yaml"), _recipe),
    "use_lora": _switch("adapter=lora", "adapter=none"),
    **dict.fromkeys(
        ("assistant_only_loss", "completion_only_loss", "train_on_completions_only"),
        _switch("data.train_on=assistant", "data.train_on=all"),
    ),
    "stage": _stage,
    **dict.fromkeys(("shuffle", "shuffle_merged_datasets", "curriculum"), _order),
    **dict.fromkeys(("interleave_probs", "probabilities", "mix_weights"), _weights),
    **dict.fromkeys(("deepspeed", "fsdp", "zero_stage"), _sharded),
    "chat_template_kwargs": _variables,
}
"""Key of another tool -> function that answers it, from its value and a source's name."""

SECTIONS = frozenset({*_SPECIAL, *KEY_ALIASES})
"""Keys with one answer as a whole, even where they contain further keys."""
