"""What makes a run disappoint that could be trained all the same: a sentence for each. Also `sft check` tells them."""

from collections.abc import Iterator
from dataclasses import dataclass

from sft_cli.config import automatic
from sft_cli.config.schema.adapter import AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto, resolved
from sft_cli.config.schema.trainer import OptimizerName
from sft_cli.data.prepared import Prepared

FEW = 50
"""Optimizer steps below which most runs change little."""
MOST_PASSES = 20
"""Passes over the rows that are still advised."""
RATES = {
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
"""Least and largest peak learning rate that each method is usually trained at."""


@dataclass(frozen=True, slots=True)
class Concern:
    """Something to look at before a run.

    Attributes:
        name: What it is about, in a word.
        text: What was found.
        fix: What to type.
    """

    name: str
    text: str
    fix: str


def concerns(config: Config, prepared: Prepared, *, examples: int, held_out: bool) -> Iterator[Concern]:
    """What to look at, in the order of a run.

    Args:
        config: The run's, settled (see ``automatic.resolve_auto``).
        prepared: Its rows, or a sample of them.
        examples: Training examples of an epoch.
        held_out: Whether rows are held out.
    """
    yield from _template(config, prepared)
    yield from _steps(config, examples)
    yield from _held_out(config, held_out)
    yield from _rate(config)


def num_steps(config: Config, examples: int) -> int:
    """Optimizer steps of a settled run, as ``schedule.plan`` counts them."""
    trainer = config.trainer
    return trainer.max_steps or -(-examples // resolved(trainer.examples_per_step)) * resolved(trainer.epochs)


def plan_line(asked: Config, config: Config, examples: int) -> str:
    """What the run does, and which of its numbers were chosen here.

    Args:
        asked: The config as it was composed.
        config: The same, settled.
        examples: Training examples of an epoch.
    """
    trainer, size, epochs = config.trainer, resolved(config.trainer.examples_per_step), resolved(config.trainer.epochs)
    passes = f"{epochs} epoch{'s' * (epochs > 1)} of {examples:,} examples, {size} a step"
    limit = "" if trainer.max_steps is None else ", ended by trainer.max_steps"
    values = {"trainer.epochs": asked.trainer.epochs, "trainer.examples_per_step": asked.trainer.examples_per_step}
    auto = [f"{key}=N" for key, value in values.items() if isinstance(value, Auto)]
    hint = f" (chosen by size; {' '.join(auto)} sets {'it' if len(auto) == 1 else 'them'})" if auto else ""
    return f"{num_steps(config, examples):,} steps: {passes}{limit}{hint}"


def _template(config: Config, prepared: Prepared) -> Iterator[Concern]:
    """A template beside the tokenizer's own."""
    if prepared.manifest["beside_own_template"]:
        name = "template.path" if config.template.path else f"template={config.template.name}"
        yield Concern(
            "template",
            f"the tokenizer has its own chat template, but {name} is used: what the model knows of its own"
            " is not used, and serving must use the one that is saved with the result",
            "template=auto takes the tokenizer's own" + (", without template.path" if config.template.path else ""),
        )


def _steps(config: Config, examples: int) -> Iterator[Concern]:
    """Too few steps."""
    trainer, steps = config.trainer, num_steps(config, examples)
    if steps >= FEW:
        return
    size = min(resolved(trainer.examples_per_step), automatic.examples_per_step(examples))
    epochs = max(resolved(trainer.epochs), min(-(-FEW // -(-examples // size)), MOST_PASSES))
    if trainer.max_steps is not None:
        fix = f"leave trainer.max_steps out, or trainer.max_steps={FEW} and more"
    else:
        words = {"trainer.examples_per_step": size, "trainer.epochs": epochs}
        own = {"trainer.examples_per_step": trainer.examples_per_step, "trainer.epochs": trainer.epochs}
        fix = " ".join(f"{key}={value}" for key, value in words.items() if value != own[key]) or "add rows"
    yield Concern("steps", f"{steps} step{'s' * (steps > 1)} in all: the model will change little", fix)


def _held_out(config: Config, held_out: bool) -> Iterator[Concern]:
    """No rows to judge by."""
    if not held_out:
        few = f", fewer than {automatic.ENOUGH} rows" if isinstance(config.data.val_fraction, Auto) else ""
        yield Concern(
            "held out",
            f"no rows are held out{few}: overfitting will not be visible",
            "data.val_fraction=0.1, or data.mix.NAME.validation_path=FILE",
        )


def _rate(config: Config) -> Iterator[Concern]:
    """A learning rate of another method. Muon and Adafactor have scales of their own."""
    trainer, kind = config.trainer, config.adapter.kind
    if trainer.optimizer in (OptimizerName.muon, OptimizerName.adafactor):
        return
    lr, (least, most) = resolved(trainer.lr), RATES[kind]
    if not least <= lr <= most:
        end = "large" if lr > most else "small"
        what = "full tuning" if kind is AdapterKind.none else f"adapter={kind.value}"
        yield Concern(
            "lr",
            f"trainer.lr={lr:g} is {end} for {what}, usually trained between {least:g} and {most:g}",
            f"trainer.lr={automatic.LR[kind]:g}, or trainer.lr=auto",
        )
