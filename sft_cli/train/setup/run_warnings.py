"""Warnings about settings that are valid but likely to give a poor result; also printed by `sft check`."""

from collections.abc import Iterator
from dataclasses import dataclass

from sft_cli.config import automatic
from sft_cli.config.schema.adapter import AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto, resolved
from sft_cli.config.schema.trainer import OptimizerName
from sft_cli.data.prepared import PreparedData

MIN_STEPS = 50
"""Number of optimizer steps below which most runs change the model little."""
MAX_EPOCHS = 20
"""Largest number of epochs that a fix proposes."""
USUAL_LR = {
    AdapterKind.none: (1e-7, 1e-4),
    AdapterKind.bitfit: (1e-5, 1e-2),
    AdapterKind.lora: (1e-5, 1e-2),
    AdapterKind.oft: (1e-5, 1e-2),
    AdapterKind.vera: (1e-4, 1e-1),
    AdapterKind.ia3: (1e-4, 1e-1),
    AdapterKind.prefix: (1e-4, 1.0),
    AdapterKind.prompt: (1e-4, 1.0),
    AdapterKind.llama_adapter: (1e-4, 1.0),
}
"""Usual range of the peak learning rate of each method."""


@dataclass(frozen=True, slots=True)
class RunWarning:
    """A warning before a run.

    Attributes:
        name: The subject, in a word or two.
        text: The warning.
        fix: The settings to use instead.
    """

    name: str
    text: str
    fix: str


def find_run_warnings(config: Config, prepared: PreparedData, *, examples: int, held_out: bool) -> Iterator[RunWarning]:
    """Yield the warnings about a run, in the order of its phases.

    Args:
        config: The settings of the run after ``automatic.resolve_auto``.
        prepared: Its rows, or a sample of them.
        examples: Number of training examples of an epoch.
        held_out: Whether rows are held out.
    """
    yield from _template_warnings(config, prepared)
    yield from _step_warnings(config, examples)
    yield from _holdout_warnings(config, held_out)
    yield from _lr_warnings(config)


def num_steps(config: Config, examples: int) -> int:
    """Return the number of optimizer steps, as ``make_step_plan`` counts them, after ``automatic.resolve_auto``."""
    trainer = config.trainer
    return trainer.max_steps or -(-examples // resolved(trainer.examples_per_step)) * resolved(trainer.epochs)


def describe_plan(written: Config, config: Config, examples: int) -> str:
    """Describe the number of steps of a run, and say which settings of it were chosen automatically.

    Args:
        written: The config before ``automatic.resolve_auto``.
        config: The config after it.
        examples: Number of training examples of an epoch.
    """
    trainer, size, epochs = config.trainer, resolved(config.trainer.examples_per_step), resolved(config.trainer.epochs)
    passes = f"{epochs} epoch{'s' * (epochs > 1)} of {examples:,} examples, {size} a step"
    limit = "" if trainer.max_steps is None else ", ended by trainer.max_steps"
    values = {
        "trainer.epochs": written.trainer.epochs,
        "trainer.examples_per_step": written.trainer.examples_per_step,
    }
    auto = [f"{key}=N" for key, value in values.items() if isinstance(value, Auto)]
    hint = f" (chosen by size; {' '.join(auto)} sets {'it' if len(auto) == 1 else 'them'})" if auto else ""
    return f"{num_steps(config, examples):,} steps: {passes}{limit}{hint}"


def _template_warnings(config: Config, prepared: PreparedData) -> Iterator[RunWarning]:
    """Yield a warning if the template is not the tokenizer's own."""
    if prepared.manifest["replaces_own_template"]:
        name = "template.path" if config.template.path else f"template={config.template.name}"
        yield RunWarning(
            "template",
            f"the tokenizer has its own chat template, but {name} is used: the model's training with its own template"
            " is not used, and serving must use the one that is saved with the result",
            "template=auto takes the tokenizer's own" + (", without template.path" if config.template.path else ""),
        )


def _step_warnings(config: Config, examples: int) -> Iterator[RunWarning]:
    """Yield a warning if there are too few steps."""
    trainer, steps = config.trainer, num_steps(config, examples)
    if steps >= MIN_STEPS:
        return
    size = min(resolved(trainer.examples_per_step), automatic.examples_per_step(examples))
    epochs = max(resolved(trainer.epochs), min(-(-MIN_STEPS // -(-examples // size)), MAX_EPOCHS))
    if trainer.max_steps is not None:
        fix = f"remove trainer.max_steps, or set trainer.max_steps={MIN_STEPS} or more"
    else:
        proposed = {"trainer.examples_per_step": size, "trainer.epochs": epochs}
        current = {"trainer.examples_per_step": trainer.examples_per_step, "trainer.epochs": trainer.epochs}
        fix = " ".join(f"{key}={value}" for key, value in proposed.items() if value != current[key]) or "add rows"
    yield RunWarning("steps", f"{steps} step{'s' * (steps > 1)} in all: the model will change little", fix)


def _holdout_warnings(config: Config, held_out: bool) -> Iterator[RunWarning]:
    """Yield a warning if no rows are held out."""
    if not held_out:
        reason = f", fewer than {automatic.ENOUGH} rows" if isinstance(config.data.val_fraction, Auto) else ""
        yield RunWarning(
            "held out",
            f"no rows are held out{reason}: overfitting will not be visible",
            "data.val_fraction=0.1, or data.mix.NAME.validation_path=FILE",
        )


def _lr_warnings(config: Config) -> Iterator[RunWarning]:
    """Yield a warning if the learning rate is unusual for the method. Muon and Adafactor have other scales."""
    trainer, kind = config.trainer, config.adapter.kind
    if trainer.optimizer in (OptimizerName.muon, OptimizerName.adafactor):
        return
    lr, (lowest, highest) = resolved(trainer.lr), USUAL_LR[kind]
    if not lowest <= lr <= highest:
        adjective = "large" if lr > highest else "small"
        method = "full tuning" if kind is AdapterKind.none else f"adapter={kind.value}"
        yield RunWarning(
            "lr",
            f"trainer.lr={lr:g} is {adjective} for {method}, usually trained between {lowest:g} and {highest:g}",
            f"trainer.lr={automatic.LR[kind]:g}, or trainer.lr=auto",
        )
