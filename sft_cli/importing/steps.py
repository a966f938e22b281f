"""Units of an optimizer step: batch, length, warm-up, epochs, and how often to evaluate and save."""

import math
from collections.abc import Mapping
from typing import Any

from sft_cli.importing.translation import Translation

MANY = 10**9
"""Length from which a limit is none."""

NO_LIMIT = "no limit there; here trainer.max_length keeps 2048, and longer rows are an error"
"""Reason of a length without a limit."""


def translate_batch(t: Translation, micro: str, accumulation: str, packing: str | None, length: str) -> None:
    """Set the examples of an optimizer step over all GPUs.

    With packing, a micro-batch of the other tool counts packed rows of a fixed length, not examples: the examples of a
    step follow from the mean length of a row, where it is known.

    Args:
        t: The translation.
        micro: Key of the rows of a GPU and forward pass.
        accumulation: Key of the accumulated passes.
        packing: The key that packs examples into rows, if the config has one that is on.
        length: Key of the length of a packed row.
    """
    rows, steps = _whole(t.get(micro), 1), _whole(t.get(accumulation), 1)
    product = rows * steps * t.gpus
    terms = f"{rows} a GPU x {steps} accumulated x {t.gpus} GPU{'s' * (t.gpus != 1)}"
    if t.gpus != 1:
        t.set("launcher.nproc", t.gpus, "num_processes", "nproc_per_node")
    if packing is None:
        t.set("trainer.examples_per_step", product, micro, accumulation, why=f"{terms} = {product}")
        return
    tokens = product * _whole(t.get(length), 2048)
    packed = f"{packing} counts packed rows: {terms} x {t.get(length)} tokens = {tokens:,} tokens a step"
    if t.row_tokens is None:
        why = f"{packed}; trainer.examples_per_step stays auto, or import again with --row-tokens MEAN"
        t.none(micro, accumulation, why=why)
    else:
        examples = max(1, round(tokens / t.row_tokens))
        why = f"{packed}, at {t.row_tokens} tokens a row {examples}"
        t.change("trainer.examples_per_step", examples, micro, accumulation, why=why)


def _whole(value: Any, otherwise: int) -> int:
    """Return a positive whole number, or the other one for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def translate_max_steps(t: Translation) -> None:
    """Set ``trainer.max_steps``; -1 and 0 mean none."""
    value = t.get("max_steps")
    if isinstance(value, int) and value > 0:
        t.set("trainer.max_steps", value, "max_steps")
    else:
        t.same("max_steps", why="no limit, as here")


def translate_epochs(t: Translation, key: str) -> None:
    """Set the passes over the rows, which are whole here."""
    value = t.number(key) or 1
    if value == int(value) and value >= 1:
        t.set("trainer.epochs", int(value), key)
    else:
        whole = max(1, math.ceil(value))
        steps = None if t.rows is None else _steps_per_epoch(t)
        if steps is not None and not t.has("max_steps"):
            t.set("trainer.epochs", whole, key)
            t.change("trainer.max_steps", max(1, round(value * steps)), key, why=f"{value} of {steps} steps an epoch")
        else:
            why = f"{value:g} passes: passes are whole here; trainer.max_steps=N stops earlier"
            t.change("trainer.epochs", whole, key, why=why)


def _steps_per_epoch(t: Translation) -> int | None:
    """Return the optimizer steps of an epoch; None where rows or examples of a step are not known."""
    examples = t.values.get("trainer", {}).get("examples_per_step")
    return math.ceil(t.rows / examples) if t.rows is not None and isinstance(examples, int) else None


def total_steps(t: Translation) -> int | None:
    """Return the optimizer steps of the run, after batch, epochs and max_steps; None where they are not known."""
    trainer: Mapping[str, Any] = t.values.get("trainer", {})
    if isinstance(steps := trainer.get("max_steps"), int):
        return steps
    epochs, of_epoch = trainer.get("epochs"), _steps_per_epoch(t)
    return epochs * of_epoch if isinstance(epochs, int) and of_epoch is not None else None


def translate_warmup(t: Translation) -> None:
    """Set the warm-up as a share of all steps."""
    if count := t.number("warmup_steps"):
        if t.has("warmup_ratio"):
            t.none("warmup_ratio", why="warmup_steps takes precedence there")
        _warmup_steps(t, count)
        return
    t.set("trainer.warmup_ratio", t.number("warmup_ratio") or 0.0, "warmup_ratio", "warmup_steps")


def _warmup_steps(t: Translation, value: float) -> None:
    """Set the warm-up from a number of steps; a number below 1 is a share already."""
    if isinstance(value, float) and 0 < value < 1:
        t.set("trainer.warmup_ratio", value, "warmup_steps", why="a number below 1 is a share of all steps")
    elif value < 0:
        t.none("warmup_steps", why=f"{value:g} is not a number of steps")
    elif (steps := total_steps(t)) is not None:
        ratio = min(round(value / steps, 6), 0.999)
        t.change("trainer.warmup_ratio", ratio, "warmup_steps", why=f"{value:g} of {steps} steps")
    else:
        why = f"a number of steps; here a share: trainer.warmup_ratio={value:g}/STEPS, or import again with --rows N"
        t.none("warmup_steps", why=why)


def translate_cadence(t: Translation, name: str, ours: str) -> None:
    """Set how often to evaluate (``name`` eval) or to save (``name`` save), in steps; null is once an epoch."""
    strategy, steps, per_epoch = f"{name}_strategy", f"{name}_steps", f"{name}s_per_epoch"
    if name == "eval" and t.has("evaluation_strategy"):
        strategy = "evaluation_strategy"
    kind = str(t.get(strategy)).lower()
    if t.get(strategy) is not None and kind not in ("steps", "epoch"):
        off = t.get(strategy) is False or kind in ("no", "best")
        t.none(strategy, steps, why="here it happens at the end of every epoch" if off else f"unknown value {kind}")
    elif kind == "epoch":
        t.same(strategy, why="at the end of every epoch, as here")
        t.none(steps, why=f"{strategy} is epoch")
    elif t.has(steps) or kind == "steps":
        _steps_between(t, ours, strategy, steps)
    if (value := t.number(per_epoch)) is not None:
        _times_an_epoch(t, ours, per_epoch, value)


def _steps_between(t: Translation, ours: str, strategy: str, steps: str) -> None:
    """Set a number of steps between two evaluations or checkpoints; a number below 1 is a share of all steps."""
    value, total = t.number(steps), total_steps(t)
    if isinstance(value, float) and 0 < value < 1 and total is not None:
        t.change(ours, max(1, round(value * total)), steps, strategy, why=f"{value:g} of {total} steps")
    elif value is not None and value >= 1:
        t.set(ours, int(value), steps, strategy)
    else:
        why = f"{value} is a share of all steps; here a number: {ours}=N" if value else f"without {steps}: {ours}=N"
        t.none(steps, strategy, why=f"{why}; else it happens at the end of every epoch")


def _times_an_epoch(t: Translation, ours: str, key: str, value: Any) -> None:
    """Set the steps between two evaluations from their number an epoch."""
    of_epoch = _steps_per_epoch(t)
    if value == 1:
        t.same(key, why="at the end of every epoch, as here")
    elif value <= 0:
        t.none(key, why="off there; here it happens at the end of every epoch if rows are held out")
    elif of_epoch is not None:
        t.change(ours, max(1, round(of_epoch / value)), key, why=f"{value} times in {of_epoch} steps")
    else:
        t.none(key, why=f"here in steps: {ours}=N, or import again with --rows N; else at the end of every epoch")


def translate_length(t: Translation, key: str, overflow: str, reason: str) -> None:
    """Set the longest example, and the treatment of longer ones.

    Args:
        t: The translation.
        key: Key of the length.
        overflow: Our treatment that equals that of the other tool.
        reason: What it does with longer rows.
    """
    value = t.get(key)
    if isinstance(value, int) and 8 <= value < MANY:
        t.set("trainer.max_length", value, key)
    else:
        t.none(key, why=NO_LIMIT)
        return
    t.set("data.overflow", overflow, f"{key} (longer rows)", why=reason)
