"""Settings of the optimizer, of precision, adapters, quantization and sharding, which all tools share."""

import re
from collections.abc import Mapping
from typing import Any

from sft_cli.config.files.yaml_io import parse_yaml_value
from sft_cli.config.keys.typos import format_number, suggest_values
from sft_cli.config.keys.valid_keys import KEYS
from sft_cli.importing.steps import total_steps
from sft_cli.importing.translation import Translation

OTHER_VALUES = {
    "paged_adamw_32bit": "moments in 8 bits instead of 32",
    "paged_adamw": "moments in 8 bits instead of 32",
    "paged_lion_8bit": "moments in 32 bits, in GPU memory",
    "paged_lion_32bit": "moments in GPU memory",
    "lion_8bit": "moments in 32 bits",
    "adamw_torch_4bit": "moments in 8 bits instead of 4",
    "ao_adamw_4bit": "moments in 8 bits instead of 4",
    "ao_adamw_fp8": "moments in 8-bit integers instead of floats",
    "galore_adamw": "without GaLore's projection of gradients",
    "galore_adamw_8bit": "without GaLore's projection of gradients",
    "apollo_adamw": "without APOLLO's projection of gradients",
    "cosine_with_restarts": "one cosine, without restarts",
}
"""Values whose counterpart here is not the same -> the difference."""
_BETAS = (("adam_beta1", 0.9), ("adam_beta2", 0.999))


def translate_optimizer(t: Translation, key: str, adapted: bool) -> None:
    """Set the optimizer and its betas; Muon trains whole matrices only."""
    value = str(t.get(key))
    if value == "muon" and adapted:
        t.none(key, why="Muon trains the matrices of the model itself, not an adapter; AdamW is taken")
    elif t.choices.get("distributed") and re.search(r"8bit|4bit|32bit|fp8|paged", value):
        t.change("trainer.optimizer", "adamw", key, why=f"{value} there; moments are sharded in 32 bits, not in 8")
    elif value in OTHER_VALUES:
        _another(t, "trainer.optimizer", value, key)
    else:
        t.put("trainer.optimizer", value, key)
    if any(t.has(name) for name, _ in _BETAS):
        betas = [t.get(name) if t.has(name) else default for name, default in _BETAS]
        t.set("trainer.betas", betas, *(name for name, _ in _BETAS))


def _another(t: Translation, ours: str, value: str, key: str) -> None:
    """Set a key to a similar value, and say how it differs."""
    meant = suggest_values(KEYS[ours].kind, KEYS[ours].limits, value)
    assert meant, value
    t.change(ours, meant[0], key, why=f"{value} there; {OTHER_VALUES[value]}")


def translate_schedule(t: Translation, key: str) -> None:
    """Set the schedule of the learning rate, its floor and its decay."""
    value, floor = str(t.get(key)), t.number("cosine_min_lr_ratio")
    given = t.get("lr_scheduler_kwargs")
    given = parse_yaml_value(given) if isinstance(given, str) else given
    options = dict(given) if isinstance(given, Mapping) else {}
    if given and not options:
        t.none("lr_scheduler_kwargs", why="a mapping of options was expected")
    named: tuple[str, ...] = (key,)
    if floor is not None:
        if value.startswith("cosine") and 0 <= floor < 1:
            t.set("trainer.min_lr_ratio", floor, "cosine_min_lr_ratio")
            value, named = "cosine_with_min_lr", (key, "cosine_min_lr_ratio")
        else:
            t.none("cosine_min_lr_ratio", why=f"the floor of a cosine, below 1; the schedule is {value}")
    if value in OTHER_VALUES:
        _another(t, "trainer.schedule", value, key)
    else:
        t.put("trainer.schedule", value, *named)
    if value == "constant":
        t.set("trainer.warmup_ratio", 0.0, key, why="constant has no warm-up there")
    if value == "polynomial":
        options.setdefault("lr_end", 1e-7)
    _schedule_options(t, value, options)


def _schedule_options(t: Translation, schedule: str, options: Mapping[str, Any]) -> None:
    """Set floor and decay from the options of a schedule."""
    lr, steps = t.get("learning_rate"), total_steps(t)
    for name, option in options.items():
        source = f"lr_scheduler_kwargs.{name}"
        if name in ("min_lr_rate", "min_lr_ratio") and isinstance(option, int | float):
            t.set("trainer.min_lr_ratio", option, source)
        elif name in ("min_lr", "lr_end") and isinstance(option, int | float) and isinstance(lr, int | float):
            why = f"{format_number(option)} of a peak of {format_number(lr)}"
            t.change("trainer.min_lr_ratio", round(option / lr, 6), source, why=why)
        elif name == "num_decay_steps" and steps is not None and isinstance(option, int):
            t.change("trainer.decay_ratio", round(option / steps, 6), source, why=f"{option} of {steps} steps")
        else:
            t.none(source, why=f"schedule {schedule} has no such option here")
    if options:
        t.seen("lr_scheduler_kwargs")


def translate_precision(t: Translation, otherwise: str) -> None:
    """Set the type of the computation.

    Args:
        t: The translation.
        otherwise: The type where neither bf16 nor fp16 is on.
    """
    bf16, fp16 = t.get("bf16"), t.get("fp16")
    if str(bf16).lower() == "auto":
        t.set("trainer.dtype", "auto", "bf16")
        t.same("fp16", why="bf16 is auto") if not fp16 else t.none("fp16", why="bf16 is auto")
    elif bf16 or t.get("bfloat16"):
        named = [key for key in ("bf16", "bfloat16", "fp16", "float16") if key in t.config.values]
        t.set("trainer.dtype", "bfloat16", *(named or ["bf16"]))
    elif fp16 or t.get("float16"):
        named = [key for key in ("fp16", "float16", "bf16") if key in t.config.values]
        t.set("trainer.dtype", "float16", *named)
    elif bf16 is False or fp16 is False:
        t.set("trainer.dtype", otherwise, "bf16", "fp16")


def translate_lora(t: Translation, *, kind: str | None, names: Mapping[str, str]) -> None:
    """Set the trained parameters.

    Args:
        t: The translation.
        kind: The key that chooses LoRA; None if the config trains the whole model.
        names: Our name -> the key of the config, of rank, alpha, dropout, targets, whole modules, and switches.
    """
    if kind is None:
        return
    for ours in ("rank", "alpha", "dropout"):
        if (value := t.get(names[ours])) is not None:
            t.put(f"adapter.{ours}", value, names[ours])
    _targets(t, names)
    if (whole := t.get(names["modules_to_save"])) is not None:
        t.set("adapter.modules_to_save", split_names(whole), names["modules_to_save"])
    if (parameters := t.get("lora_target_parameters")) is not None:
        t.set("adapter.target_parameters", split_names(parameters), "lora_target_parameters")
    for switch, ours in (("rslora", "adapter.rank_stabilized"), ("dora", "adapter.dora")):
        if t.get(names[switch]) is not None:
            t.set(ours, bool(t.get(names[switch])), names[switch])
    if (ratio := t.number("loraplus_lr_ratio")) is not None:
        t.set("adapter.lr_ratio", float(ratio), "loraplus_lr_ratio")


def _targets(t: Translation, names: Mapping[str, str]) -> None:
    """Set the adapted layers: names, all linear layers, or a regular expression, of which only the end is kept."""
    key = names["targets"]
    value, every = t.get(key), t.get("lora_target_linear")
    listed = split_names(value)
    if every or listed in (["all"], ["all-linear"], ["all_linear"]):
        t.set("adapter.target_modules", ["all-linear"], "lora_target_linear", key)
    elif listed and all(re.fullmatch(r"[\w.]+", name) for name in listed):
        t.set("adapter.target_modules", listed, key)
    elif listed:
        ends = re.findall(r"\w+_proj|\w*qkv\w*", str(value))
        if ends:
            why = "the ends of the names of a regular expression: layers elsewhere with these names are adapted, too"
            t.change("adapter.target_modules", list(dict.fromkeys(ends)), key, why=why)
        else:
            t.none(key, why="regular expressions are not read; adapter.target_modules keeps all-linear")
    elif t.get("lora_target_parameters") is not None:
        t.set("adapter.target_modules", [], key)
    elif every is False:
        t.same("lora_target_linear", why="off; the layers are named")


def split_names(value: Any) -> list[str]:
    """Return the names of a list or of a text separated by commas."""
    if isinstance(value, list):
        return [str(name) for name in value]
    text = str(value or "")
    return [text] if re.search(r"[\[\]()\\]", text) else [part for part in re.split(r"[,\s]+", text) if part]


def translate_sharding(t: Translation, optimizer: str) -> None:
    """Set the parallelism of several GPUs from DeepSpeed's or FSDP's settings.

    Args:
        t: The translation, its storage of the base set.
        optimizer: The key of the optimizer.
    """
    deepspeed, fsdp, options = t.get("deepspeed"), t.get("fsdp"), t.get("fsdp_config")
    if not (deepspeed or fsdp or options):
        return
    deepspeed_name = str(deepspeed or "").lower()
    options = dict(options) if isinstance(options, Mapping) else {}
    plain = {name.removeprefix("fsdp_"): value for name, value in options.items()}
    offload = "offload" in deepspeed_name or bool(plain.get("offload_params")) or "offload" in str(fsdp)
    zero2 = re.search(r"(zero_?|z)[12]|stage.{0,3}[12]", deepspeed_name) or "grad_op" in f"{fsdp} {plain}".lower()
    zero2 = zero2 or plain.get("reshard_after_forward") is False
    keys = tuple(key for key in ("deepspeed", "fsdp", "fsdp_config", "fsdp_version") if t.has(key))
    if re.search(r"z(ero)?_?0", deepspeed_name):
        t.set("distributed.kind", "ddp", *keys)
        return
    for what, blocked in (
        ("int8 weights", t.choices.get("quant") == "int8"),
        (str(t.get(optimizer)), _whole_only(t, optimizer)),
    ):
        if blocked:
            t.none(*keys, why=f"{what} cannot be sharded here; each GPU holds the model")
            return
    option = "fsdp_offload" if offload else "fsdp_zero2" if zero2 else "fsdp"
    what = "main memory holds the shards" if offload else "gathered weights stay" if zero2 else "shards of all tensors"
    t.choose("distributed", option, *keys, why=f"{what}; other options of the file are not needed")


def _whole_only(t: Translation, optimizer: str) -> bool:
    """Return whether the optimizer needs whole tensors."""
    return str(t.get(optimizer)) in ("muon", "adafactor") or bool(t.get("use_muon"))


def translate_weights(t: Translation, held_out: bool) -> None:
    """Set which weights are exported: the last ones, unless the config asks for the best."""
    if t.get("load_best_model_at_end") or t.get("early_stopping_patience"):
        t.set("trainer.keep_best", True, "load_best_model_at_end")
    elif held_out:
        t.set("trainer.keep_best", False, "load_best_model_at_end", why="the last weights are saved there")
