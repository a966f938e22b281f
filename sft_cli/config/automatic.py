"""Values chosen for keys that are ``auto``: pure functions of the method and of the number of rows."""

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
"""Peak learning rates by kind of adapter: LoRA from the QLoRA paper, full tuning from Stanford Alpaca, the others from
their own papers."""
STEPS = 50
"""Smallest number of optimizer steps that an epoch should have."""
LEAST, MOST = 4, 64
"""Smallest and largest number of examples per step."""
SMALL, PASSES = 10_000, 3
"""Number of examples below which a run makes several passes, and the number of passes then."""
SHARE, FEWEST_HELD_OUT, MOST_HELD_OUT, ENOUGH = 0.02, 8, 500, 40
"""Share of the rows that is held out, its smallest and largest number of rows, and the rows below which none is held
out."""


def with_learning_rate(config: Config) -> Config:
    """Return the config with a learning rate for the chosen adapter kind in place of ``auto``."""
    if not isinstance(config.trainer.lr, Auto):
        return config
    return replace(config, trainer=replace(config.trainer, lr=LR[config.adapter.kind]))


def resolve_auto(config: Config, examples: int) -> Config:
    """Return the config with numbers for ``trainer.examples_per_step`` and ``trainer.epochs`` in place of ``auto``.

    ``trainer.max_steps`` is ignored, so that a shortened run takes the same first steps as the whole one.

    Args:
        config: The config of the run.
        examples: Number of training examples per epoch.
    """
    trainer = config.trainer
    if isinstance(trainer.examples_per_step, Auto):
        trainer = replace(trainer, examples_per_step=examples_per_step(examples))
    if isinstance(trainer.epochs, Auto):
        trainer = replace(trainer, epochs=epochs(examples, config.adapter.kind))
    return config if trainer is config.trainer else replace(config, trainer=trainer)


def examples_per_step(examples: int) -> int:
    """Return the largest power of two, within its bounds, that gives an epoch at least ``STEPS`` steps."""
    size = MOST
    while size > LEAST and -(-examples // size) < STEPS:
        size //= 2
    return size


def epochs(examples: int, kind: AdapterKind) -> int:
    """Return the number of passes over ``examples`` examples; full tuning always takes several, at its small rate."""
    return PASSES if examples < SMALL or kind is AdapterKind.none else 1


def held_out_rows(data: DataConfig, rows: int) -> int | None:
    """Return the number of rows to hold out over all sources; None where the config sets a fixed fraction.

    Args:
        data: The data section of the config.
        rows: Usable rows of the sources that have no held-out rows of their own.
    """
    if data.val_rows is not None or not isinstance(data.val_fraction, Auto):
        return data.val_rows
    if has_own_held_out(data) or rows < ENOUGH:
        return 0
    return min(max(round(SHARE * rows), FEWEST_HELD_OUT), MOST_HELD_OUT)


def may_hold_out(config: Config) -> bool:
    """Return whether the config allows held-out rows; under ``auto`` the number of rows decides later."""
    data = config.data
    return has_own_held_out(data) or data.val_rows is not None or data.val_fraction != 0


def has_own_held_out(data: DataConfig) -> bool:
    """Return whether any source has its own held-out rows, or whole groups of rows are held out."""
    return bool(data.holdout) or any(source.validation_path or source.validation_split for source in data.mix.values())


def stays_in_training(data: DataConfig, name: str) -> bool:
    """Return whether ``auto`` holds out no rows of a source: replayed text is not used for evaluation."""
    return isinstance(data.val_fraction, Auto) and data.val_rows is None and data.mix[name].role is Role.replay
