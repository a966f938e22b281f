"""Do the mix, its stages and the split fit together, and would every key of them be read?"""

import math
from collections.abc import Collection, Iterator

from sft_cli.config.keys.valid_keys import nearest
from sft_cli.config.schema.data import DataConfig, Order, StoppingStrategy, Strategy
from sft_cli.config.schema.fields import Auto
from sft_cli.config.validate import Mistake

_BY_SIZE = (Strategy.proportional, Strategy.temperature)


def data_rules(data: DataConfig) -> Iterator[Mistake]:
    """What does not fit together."""
    yield from _ends(data)
    if data.mix:
        yield from _stages(data)
    if data.val_rows is not None and not isinstance(data.val_fraction, Auto) and data.val_fraction > 0:
        yield Mistake(
            "data.val_rows",
            f"data.val_rows is {data.val_rows} and data.val_fraction {data.val_fraction:g}: "
            "both say how much is held out",
            "keep one of them",
            clash="data.val_fraction",
        )


def _ends(data: DataConfig) -> Iterator[Mistake]:
    """An epoch's number of rows and the rule that reads it."""
    if data.stopping_strategy is StoppingStrategy.total_rows and data.total_rows is None:
        yield Mistake(
            "data.stopping_strategy",
            "data.stopping_strategy is total_rows, but data.total_rows is not set",
            "set data.total_rows=100000",
        )
    if data.stopping_strategy is not StoppingStrategy.total_rows and data.total_rows is not None:
        yield Mistake(
            "data.total_rows",
            f"data.total_rows is {data.total_rows}, but data.stopping_strategy is {data.stopping_strategy.value}:"
            " it would not be read",
            "set data.stopping_strategy=total_rows, or leave data.total_rows out",
            clash="data.stopping_strategy",
        )
    if (
        data.stopping_strategy is StoppingStrategy.total_rows
        and data.mix
        and all(source.epochs for source in data.mix.values())
    ):
        yield Mistake(
            "data.stopping_strategy",
            "data.stopping_strategy is total_rows, but every source has epochs, which alone say how many rows an epoch"
            " has",
            "take epochs off a source, or leave data.stopping_strategy out",
        )


def _stages(data: DataConfig) -> Iterator[Mistake]:
    """Stages name sources there are, every source is in one, and weights are numbers above 0."""
    for number, stage in enumerate(data.stages):
        key = f"data.stages.{number}"
        for name, weight in stage.mix.items():
            if name not in data.mix:
                near = nearest(name, data.mix)
                hint = f"did you mean {near}? " if near else ""
                yield Mistake(
                    "data.stages",
                    f"{key}.mix names {name!r}, which is no source of data.mix",
                    f"{hint}sources: {', '.join(data.mix)}",
                )
            if not (math.isfinite(weight) and weight > 0):
                yield Mistake(
                    "data.stages",
                    f"{key}.mix.{name} is {weight:g}; a weight must be above 0",
                    f"leave {name} out of this stage's mix, or give it a weight such as 1.0",
                )
        if stage.difficulty != "difficulty" and stage.order is not Order.by_difficulty:
            yield Mistake(
                "data.stages",
                f"{key}.difficulty is {stage.difficulty!r}, but the stage's order is {stage.order.value}: "
                "it would not be read",
                "set order: by_difficulty, or leave difficulty out",
            )
    if data.stages and all(stage.mix for stage in data.stages):
        for name in data.mix:
            if not any(name in stage.mix for stage in data.stages):
                yield Mistake(
                    "data.stages",
                    f"the source {name} is in no stage's mix: its rows would never be trained on",
                    f"name it in a stage, or take data.mix.{name} out",
                )


def idle_data_keys(data: DataConfig, said: Collection[str]) -> Iterator[Mistake]:
    """Keys typed on the command line that nothing would read."""
    for key, reason, fix in (*_idle_keys(data), *_idle_source_keys(data)):
        if key in said:
            yield Mistake(key, f"{key} would have no effect: {reason}", f"{fix}, or leave {key} out")


def _idle_keys(data: DataConfig) -> Iterator[tuple[str, str, str]]:
    """Key, why nothing reads it, what to set."""
    sources = data.mix.values()
    if data.strategy is not Strategy.temperature:
        yield "data.temperature", f"data.strategy is {data.strategy.value}", "set data.strategy=temperature"
    if data.strategy is Strategy.proportional and data.stopping_strategy is not StoppingStrategy.total_rows:
        reason = "with data.strategy=proportional the weights are passes, which say how many rows an epoch has"
        yield "data.stopping_strategy", reason, "set data.strategy=equal, temperature or trained_tokens"
    if data.system == "" and not data.override_system:
        yield (
            "data.system",
            "an empty one is given to nobody",
            "set data.override_system=true to remove others",
        )
    if data.mix and all(source.epochs for source in sources):
        yield "data.strategy", "every source has epochs, whatever the strategy says", "take epochs off a source"
    if data.mix and all(source.validation_path or source.validation_split for source in sources):
        for key in ("data.val_fraction", "data.val_rows") if data.val_fraction or data.val_rows else ():
            yield key, "every source has its own held-out rows", "take a source's validation_path or _split off"


def _idle_source_keys(data: DataConfig) -> Iterator[tuple[str, str, str]]:
    """As ``_idle_keys``, of single sources."""
    for name, source in data.mix.items():
        key = f"data.mix.{name}"
        if not source.stream:
            yield f"{key}.shuffle_buffer", f"{name} is stored whole and chosen from", f"set {key}.stream=true"
        if source.epochs is not None:
            yield f"{key}.weight", f"{name} has epochs, which say how often it is passed over", f"set {key}.epochs=null"
            yield f"{key}.cap", f"{name} has epochs, which say how often it is passed over", f"set {key}.epochs=null"
            continue
        if data.strategy not in _BY_SIZE:
            reason = f"with data.strategy={data.strategy.value} shares do not follow sizes"
            yield f"{key}.cap", reason, "set data.strategy=proportional or temperature"
        absolute = (
            data.strategy is Strategy.proportional and data.stopping_strategy is not StoppingStrategy.total_rows
        )  # it sets the rows
        if data.stages and all(stage.mix for stage in data.stages) and not absolute:
            yield f"{key}.weight", "every stage of data.stages has its own weights", "set the weight there"
