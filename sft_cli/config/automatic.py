"""The values that are chosen where a config says ``auto``: pure functions of the method and of the number of rows."""

from dataclasses import replace

from sft_cli.config.schema.adapter import AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import DataConfig, Role
from sft_cli.config.schema.fields import Auto

LR = {
    AdapterKind.lora: 2e-4,
    AdapterKind.oft: 2e-4,
    AdapterKind.none: 2e-5,
    AdapterKind.bitfit: 1e-3,
    AdapterKind.vera: 1e-2,
    AdapterKind.ia3: 1e-2,
    AdapterKind.prefix: 1e-2,
    AdapterKind.prompt: 1e-2,
    AdapterKind.llama_adapter: 1e-2,
}
"""Peak learning rates: of the QLoRA paper for LoRA, of Stanford Alpaca for full tuning, of each method's paper else."""
STEPS = 50
"""Optimizer steps that an epoch should have at least."""
LEAST, MOST = 4, 64
"""Examples of a step."""
SMALL, PASSES = 10_000, 3
"""Examples below which one pass teaches too little, and the passes that are taken then."""
SHARE, FEWEST_HELD_OUT, MOST_HELD_OUT, ENOUGH = 0.02, 8, 500, 40
"""Share of the rows that is held out, its bounds in rows, and the rows from which any are."""


def with_learning_rate(config: Config) -> Config:
    """The config with the learning rate that suits what is trained, if it says ``auto``."""
    if not isinstance(config.trainer.lr, Auto):
        return config
    return replace(config, trainer=replace(config.trainer, lr=LR[config.adapter.kind]))


def resolve_auto(config: Config, examples: int) -> Config:
    """The config with numbers for ``trainer.examples_per_step`` and ``trainer.epochs`` where it says ``auto``.

    ``trainer.max_steps`` has no part in it: a run that is cut short begins like the whole one.

    Args:
        config: The run's.
        examples: Training examples of an epoch.
    """
    trainer = config.trainer
    if isinstance(trainer.examples_per_step, Auto):
        trainer = replace(trainer, examples_per_step=examples_per_step(examples))
    if isinstance(trainer.epochs, Auto):
        trainer = replace(trainer, epochs=epochs(examples, config.adapter.kind))
    return config if trainer is config.trainer else replace(config, trainer=trainer)


def examples_per_step(examples: int) -> int:
    """The largest power of two with which an epoch has ``STEPS`` steps, within its bounds."""
    size = MOST
    while size > LEAST and -(-examples // size) < STEPS:
        size //= 2
    return size


def epochs(examples: int, kind: AdapterKind) -> int:
    """Passes over so many examples; full tuning, at its small learning rate, takes several over any number."""
    return PASSES if examples < SMALL or kind is AdapterKind.none else 1


def held_out_rows(data: DataConfig, rows: int) -> int | None:
    """Rows to hold out over all sources; None where the config says how many.

    Args:
        data: The run's.
        rows: Usable rows of the sources without held-out rows of their own.
    """
    if data.val_rows is not None or not isinstance(data.val_fraction, Auto):
        return data.val_rows
    if has_own_held_out(data) or rows < ENOUGH:
        return 0
    return min(max(round(SHARE * rows), FEWEST_HELD_OUT), MOST_HELD_OUT)


def may_hold_out(config: Config) -> bool:
    """Whether rows are held out as far as the config says; under ``auto`` only the number of rows decides."""
    data = config.data
    return has_own_held_out(data) or data.val_rows is not None or data.val_fraction != 0


def has_own_held_out(data: DataConfig) -> bool:
    """Whether any source brings held-out rows of its own."""
    return any(source.validation_path or source.validation_split for source in data.mix.values())


def stays_in_training(data: DataConfig, name: str) -> bool:
    """Whether ``auto`` holds nothing out of a source: replayed text is no task to be judged by."""
    return isinstance(data.val_fraction, Auto) and data.val_rows is None and data.mix[name].role is Role.replay
