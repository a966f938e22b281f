"""Check that the mix, its stages and the split fit together, and that every key of them has an effect."""

import math
import re
from collections.abc import Collection, Iterator

from sft_cli.config.overrides.quoting import format_override
from sft_cli.config.schema.data import RANKED, DataConfig, Order, SourceConfig, StoppingStrategy, Strategy
from sft_cli.config.schema.fields import Auto
from sft_cli.config.validate import ConfigError
from sft_cli.utils.similar import closest_name

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ROLES = ("system", "user", "assistant", "tool", "tool_call")
"""Valid values in the ``roles`` of a source."""
_OUR_TAGS = ("repaired", "placeholders")


def check_source_keys(data: DataConfig) -> Iterator[ConfigError]:
    """Yield errors in the keys of every source."""
    for name, source in data.mix.items():
        yield from _check_source(source, f"data.mix.{name}")


def _check_source(source: SourceConfig, key: str) -> Iterator[ConfigError]:
    """Yield errors in the keys of one source."""
    if source.tree.paths not in ("best", "all") and not RANKED.fullmatch(source.tree.paths):
        yield ConfigError(
            f"{key}.tree.paths",
            f"{key}.tree.paths is {source.tree.paths!r}; it must be best, all or ranked(k) with a number k from 1",
            f"write a value such as {key}.tree.paths=ranked(2)",
        )
    if source.stream and source.max_rows is None:
        yield ConfigError(
            f"{key}.max_rows",
            f"{key}.stream is true, but {key}.max_rows is not set: a stream is read up to a number of rows",
            f"set {key}.max_rows=100000, or {key}.stream=false",
            clash=f"{key}.stream",
        )
    for variable in source.variables:
        if not _IDENTIFIER.fullmatch(variable):
            yield ConfigError(
                f"{key}.variables",
                f"{key}.variables names {variable!r}; a placeholder consists of letters, digits and _",
                "rename the placeholder here and in the rows",
            )
    for tag in source.tags:
        if tag in _OUR_TAGS:
            yield ConfigError(
                f"{key}.tags", f"{key}.tags.{tag} is a tag set by sft prepare", f"rename {key}.tags.{tag}"
            )
    for name, role in source.roles.items():
        if role not in ROLES:
            yield ConfigError(
                f"{key}.roles",
                f"{key}.roles.{name} is {role!r}; it must be one of {', '.join(ROLES)}",
                f"write the name in the file first and the role second, such as '{key}.roles={{bot: assistant}}'",
            )
    yield from _check_reading(source, key)
    if not source.format:
        yield ConfigError(f"{key}.format", f"{key}.format is empty", f"write {key}.format=auto, or remove it")
    elif not isinstance(source.format, str) and source.columns:
        yield ConfigError(
            f"{key}.columns",
            f"{key}.columns would have no effect: the texts of {key}.format name the columns themselves",
            f"remove {key}.columns",
            clash=f"{key}.format",
        )


def _check_reading(source: SourceConfig, key: str) -> Iterator[ConfigError]:
    """Yield errors in the keys that set how files are read and which columns are ignored."""
    if source.delimiter not in (None, "tab", "\\t") and (len(source.delimiter) != 1 or source.delimiter in '"\r\n'):
        yield ConfigError(
            f"{key}.delimiter",
            f"{key}.delimiter is {source.delimiter!r}; it must be one character, or tab",
            f"write a value such as {format_override(f'{key}.delimiter', ';')}, or {key}.delimiter=tab",
        )
    if source.encoding is not None and not _is_encoding(source.encoding):
        yield ConfigError(
            f"{key}.encoding",
            f"{key}.encoding is {source.encoding!r}, which is not a text encoding of Python",
            f"write a value such as {key}.encoding=cp1252, or utf-16",
        )
    read = {"columns": source.columns, "tags": source.tags, "scores": source.scores}
    for field, columns in read.items():
        for name, column in columns.items():
            if column in source.ignore:
                remaining = [other for other in source.ignore if other != column]
                yield ConfigError(
                    f"{key}.ignore",
                    f"{key}.ignore leaves out {column!r}, and {key}.{field}.{name} reads it",
                    f"{format_override(f'{key}.ignore', remaining)}, or remove {key}.{field}.{name}",
                    clash=f"{key}.{field}",
                )
    for column in source.ignore:
        if source.ignore.count(column) > 1:
            remaining = list(dict.fromkeys(source.ignore))
            problem = f"{key}.ignore names {column!r} twice"
            yield ConfigError(f"{key}.ignore", problem, format_override(f"{key}.ignore", remaining))
            break


def _is_encoding(name: str) -> bool:
    """Return whether Python has a text encoding of this name."""
    try:
        return "a".encode(name).decode(name) == "a"
    except (LookupError, UnicodeError, ValueError):
        return False


_BY_SIZE = (Strategy.proportional, Strategy.temperature)


def check_data_keys(data: DataConfig) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``data``."""
    yield from _check_stopping(data)
    if data.mix:
        yield from _check_stages(data)
        yield from _check_holdout(data)
    if data.val_rows is not None and not isinstance(data.val_fraction, Auto) and data.val_fraction > 0:
        yield ConfigError(
            "data.val_rows",
            f"data.val_rows is {data.val_rows} and data.val_fraction {data.val_fraction:g}: both set the held-out rows",
            "keep one of them",
            clash="data.val_fraction",
        )
    yield from _check_left_out(data)


def _check_left_out(data: DataConfig) -> Iterator[ConfigError]:
    """Yield errors in the sources to train without."""
    key = "data.leave_out"
    for name in data.leave_out:
        if name not in data.mix:
            near = closest_name(name, data.mix)
            fix = f"did you mean {near}?" if near else f"choose from {', '.join(data.mix) or 'none'}"
            yield ConfigError(key, f"{key} names {name!r}, which is no source of data.mix", fix)
        elif any(name in stage.mix for stage in data.stages):
            yield ConfigError(
                key,
                f"{key} names {name}, which a stage of data.stages takes rows from",
                f"remove {name} from data.stages",
                clash="data.stages",
            )
    if data.mix and set(data.mix) <= set(data.leave_out):
        yield ConfigError(key, f"{key} names every source: no row is left to train on", "keep one of them out of it")


def _check_stopping(data: DataConfig) -> Iterator[ConfigError]:
    """Yield errors in the combination of ``total_rows`` and ``stopping_strategy``."""
    if data.stopping_strategy is StoppingStrategy.total_rows and data.total_rows is None:
        yield ConfigError(
            "data.stopping_strategy",
            "data.stopping_strategy is total_rows, but data.total_rows is not set",
            "set data.total_rows=100000",
        )
    if data.stopping_strategy is not StoppingStrategy.total_rows and data.total_rows is not None:
        yield ConfigError(
            "data.total_rows",
            f"data.total_rows is {data.total_rows}, but data.stopping_strategy is {data.stopping_strategy.value}:"
            " it would not be read",
            "set data.stopping_strategy=total_rows, or remove data.total_rows",
            clash="data.stopping_strategy",
        )
    if (
        data.stopping_strategy is StoppingStrategy.total_rows
        and data.mix
        and all(source.epochs for source in data.mix.values())
    ):
        yield ConfigError(
            "data.stopping_strategy",
            "data.stopping_strategy is total_rows, but every source has epochs, which already set the rows of an epoch",
            "remove epochs from a source, or remove data.stopping_strategy",
        )


def _check_holdout(data: DataConfig) -> Iterator[ConfigError]:
    """Yield an error for each tag to hold out that no source has, or that names no value."""
    tags = {tag: name for name, source in data.mix.items() for tag in source.tags}
    for tag, names in data.holdout.items():
        key = f"data.holdout.{tag}"
        if not names:
            yield ConfigError(key, f"{key} names no value", f"write {key}=[VALUE], or remove it")
        if data.mix and tag not in tags:
            near = closest_name(tag, tags)
            hint = f"did you mean data.holdout.{near}? " if near else ""
            first = next(iter(data.mix))
            fix = f"{hint}Name the column that holds it: data.mix.{first}.tags.{tag}=COLUMN"
            yield ConfigError(key, f"{key}: no source has the tag {tag}", fix)


def _check_stages(data: DataConfig) -> Iterator[ConfigError]:
    """Yield errors in the stages: unknown or missing sources, and weights that are not above 0."""
    for number, stage in enumerate(data.stages):
        key = f"data.stages.{number}"
        for name, weight in stage.mix.items():
            if name not in data.mix:
                similar = closest_name(name, data.mix)
                hint = f"did you mean {similar}? " if similar else ""
                yield ConfigError(
                    "data.stages",
                    f"{key}.mix names {name!r}, which is not a source of data.mix",
                    f"{hint}sources: {', '.join(data.mix)}",
                )
            if not (math.isfinite(weight) and weight > 0):
                yield ConfigError(
                    "data.stages",
                    f"{key}.mix.{name} is {weight:g}; a weight must be above 0",
                    f"remove {name} from this stage's mix, or write {name}: 1.0",
                )
        if stage.difficulty != "difficulty" and stage.order is not Order.by_difficulty:
            yield ConfigError(
                "data.stages",
                f"{key}.difficulty is {stage.difficulty!r}, but the stage's order is {stage.order.value}: "
                "it would not be read",
                "write order: by_difficulty, or remove difficulty",
            )
    if data.stages and all(stage.mix for stage in data.stages):
        for name in data.mix:
            if not any(name in stage.mix for stage in data.stages):
                yield ConfigError(
                    "data.stages",
                    f"the source {name} is in no stage's mix: its rows would never be trained on",
                    f"add {name}: 1.0 to the mix of a stage, or remove data.mix.{name}",
                )


def unused_data_keys(data: DataConfig, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect."""
    for key, reason, fix in (*_unused_mix_keys(data), *_unused_source_keys(data)):
        if key in explicit:
            yield ConfigError(key, f"{key} would have no effect: {reason}", f"{fix}, or remove {key}")


def _unused_mix_keys(data: DataConfig) -> Iterator[tuple[str, str, str]]:
    """Yield each key of ``data`` that has no effect, with the reason and the fix."""
    sources = data.mix.values()
    if data.strategy is not Strategy.temperature:
        yield "data.temperature", f"data.strategy is {data.strategy.value}", "set data.strategy=temperature"
    if data.strategy is Strategy.proportional and data.stopping_strategy is not StoppingStrategy.total_rows:
        reason = "with data.strategy=proportional the weights are numbers of passes, which set the rows of an epoch"
        yield "data.stopping_strategy", reason, "set data.strategy=equal, temperature or trained_tokens"
    if data.system == "" and not data.override_system:
        yield (
            "data.system",
            "an empty system message is not added to any conversation",
            "set data.override_system=true to remove existing ones",
        )
    if data.mix and all(source.epochs for source in sources):
        yield "data.strategy", "every source has epochs, which take precedence", "remove epochs from a source"
    if data.mix and all(source.validation_path or source.validation_split for source in sources):
        for key in ("data.val_fraction", "data.val_rows") if data.val_fraction or data.val_rows else ():
            yield (
                key,
                "every source has its own held-out rows",
                "remove validation_path or validation_split of a source",
            )


def _unused_source_keys(data: DataConfig) -> Iterator[tuple[str, str, str]]:
    """Yield each key of a source that has no effect, with the reason and the fix."""
    for name, source in data.mix.items():
        key = f"data.mix.{name}"
        if not source.stream:
            yield f"{key}.shuffle_buffer", f"{name} is not streamed", f"set {key}.stream=true"
        if source.epochs is not None:
            yield f"{key}.weight", f"{name} has epochs, which set the number of passes", f"set {key}.epochs=null"
            yield f"{key}.cap", f"{name} has epochs, which set the number of passes", f"set {key}.epochs=null"
            continue
        if data.strategy not in _BY_SIZE:
            reason = f"with data.strategy={data.strategy.value} shares do not follow sizes"
            yield f"{key}.cap", reason, "set data.strategy=proportional or temperature"
        weights_are_passes = (
            data.strategy is Strategy.proportional and data.stopping_strategy is not StoppingStrategy.total_rows
        )  # weights are numbers of passes
        if data.stages and all(stage.mix for stage in data.stages) and not weights_are_passes:
            yield f"{key}.weight", "every stage of data.stages has its own weights", "set the weight there"
