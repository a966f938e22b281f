"""Rules of the keys of ``adapter`` and ``quant`` that go beyond types and limits."""

import re
from collections.abc import Iterator

from sft_cli.config.schema.adapter import (
    FOUR_BITS,
    MERGEABLE,
    WHOLE,
    AdapterConfig,
    AdapterKind,
    Init,
    QuantKind,
    TrainStopToken,
)
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import ConfigError

_CUT_OUT = (Init.pissa, Init.olora)
_ALL = "all-linear"


def check_adapter_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``adapter`` and ``quant``."""
    yield from _check_full(config)
    yield from _check_dora(config.adapter)
    yield from _check_init(config)
    yield from _check_start_from(config.adapter)
    yield from _check_targets(config.adapter)
    yield from _check_patterns(config.adapter)
    yield from _check_quantized(config)
    yield from _check_virtual(config.adapter)


def _check_full(config: Config) -> Iterator[ConfigError]:
    """Yield errors in settings of kinds that train the base's own weights."""
    kind, full = config.adapter.kind, config.adapter.kind is AdapterKind.none
    if kind in WHOLE and config.quant.kind is not QuantKind.none:
        without = "without an adapter" if full else "with adapter.kind bitfit, which saves the whole model"
        problem = "quantized weights cannot be trained" if full else "quantized weights cannot be saved as one"
        yield ConfigError(
            "quant.kind",
            f"quant.kind is {config.quant.kind.value} {without}, but {problem}",
            "choose adapter=lora, or quant=none",
            clash="adapter.kind",
        )
    if config.adapter.train_stop_token is TrainStopToken.always and kind is not AdapterKind.lora:
        reason = "full fine-tuning trains every row anyway" if full else "only LoRA can train single rows"
        named = "without an adapter" if full else f"with adapter.kind {kind.value}"
        yield ConfigError(
            "adapter.train_stop_token",
            f"adapter.train_stop_token is always {named}: {reason}",
            "set adapter.train_stop_token=auto, or choose adapter=lora",
            clash="adapter.kind",
        )


def _check_dora(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Yield errors in settings of DoRA, which normalizes the sum of weight and one update."""
    if adapter.kind is not AdapterKind.lora or not adapter.dora:
        return
    if adapter.init in (*_CUT_OUT, Init.loftq):
        yield ConfigError(
            "adapter.init",
            f"adapter.init is {adapter.init.value} with adapter.dora: DoRA's magnitudes need an update that"
            " starts at zero",
            "set adapter.init=default or eva, or adapter.dora=false",
            clash="adapter.dora",
        )
    if adapter.frozen_adapters:
        yield ConfigError(
            "adapter.frozen_adapters",
            "adapter.frozen_adapters is set with adapter.dora: DoRA's magnitudes belong to one update, not to a sum",
            "merge the frozen adapters (sft merge RUN) and set model.path=RUN/merged, or adapter.dora=false",
            clash="adapter.dora",
        )
    if adapter.target_parameters:
        yield ConfigError(
            "adapter.target_parameters",
            "adapter.target_parameters is set with adapter.dora: PEFT supports DoRA for layers only",
            "set adapter.dora=false, or remove adapter.target_parameters",
            clash="adapter.dora",
        )


def _check_quantized(config: Config) -> Iterator[ConfigError]:
    """Yield an error for DoRA on int8 weights."""
    if config.adapter.kind is AdapterKind.lora and config.adapter.dora and config.quant.kind is QuantKind.int8:
        yield ConfigError(
            "quant.kind",
            "quant.kind is int8 with adapter.dora, which dequantizes the weights: bitsandbytes then loses their scales",
            "set quant=nf4, or adapter.dora=false",
            clash="adapter.dora",
        )


def _check_virtual(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Yield an error for an empty initial text of virtual tokens."""
    if adapter.virtual.text is not None and not adapter.virtual.text.strip():
        yield ConfigError(
            "adapter.virtual.text",
            "adapter.virtual.text is empty",
            "write a text such as 'Answer briefly.', or remove it",
        )


def _check_init(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of ``adapter.init`` with other keys."""
    adapter = config.adapter
    if adapter.kind is not AdapterKind.lora:
        return
    if adapter.init is Init.loftq and config.quant.kind not in FOUR_BITS:
        yield ConfigError(
            "adapter.init",
            f"adapter.init is loftq, which starts from the rounding error of 4-bit weights, but quant.kind is"
            f" {config.quant.kind.value}",
            "set quant=nf4, or adapter.init=default",
            clash="quant.kind",
        )
    if adapter.init is Init.eva and adapter.rank_pattern:
        yield ConfigError(
            "adapter.rank_pattern",
            "adapter.rank_pattern is set with adapter.init eva, which gives layers with the same input equal ranks",
            "remove adapter.rank_pattern, or set adapter.init=default",
            clash="adapter.init",
        )
    if adapter.target_parameters and adapter.init is not Init.default:
        yield ConfigError(
            "adapter.target_parameters",
            f"adapter.target_parameters is set with adapter.init {adapter.init.value}, which supports layers only",
            "set adapter.init=default, or remove adapter.target_parameters",
            clash="adapter.init",
        )
    if adapter.target_parameters and adapter.dropout:
        yield ConfigError(
            "adapter.dropout",
            f"adapter.dropout is {adapter.dropout:g} with adapter.target_parameters, whose update has no input to drop",
            "set adapter.dropout=0, or remove adapter.target_parameters",
            clash="adapter.target_parameters",
        )


def _check_start_from(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Yield errors in combinations of ``start_from`` and ``frozen_adapters`` with other keys."""
    if adapter.start_from is not None and adapter.kind in WHOLE:
        yield ConfigError(
            "adapter.start_from",
            f"adapter.start_from names an adapter, but adapter.kind {adapter.kind.value} trains the model itself",
            "model.path=DIR_OR_HUB_ID to start from, or choose adapter=lora",
            clash="adapter.kind",
        )
    elif adapter.start_from is not None and adapter.kind is AdapterKind.lora and adapter.init is not Init.default:
        yield ConfigError(
            "adapter.init",
            f"adapter.init is {adapter.init.value}, but the weights come from adapter.start_from",
            "remove one of them",
            clash="adapter.start_from",
        )
    if adapter.frozen_adapters and adapter.kind is not AdapterKind.lora:
        yield ConfigError(
            "adapter.frozen_adapters",
            f"adapter.frozen_adapters is set with adapter.kind {adapter.kind.value}; only LoRA adapters can be summed",
            "choose adapter=lora, or merge the frozen adapters (sft merge RUN) and set model.path=RUN/merged",
            clash="adapter.kind",
        )
    if adapter.frozen_adapters and adapter.target_parameters:
        yield ConfigError(
            "adapter.target_parameters",
            "adapter.target_parameters is set with adapter.frozen_adapters, which supports layers only",
            "remove one of them, or merge the frozen adapters: sft merge RUN",
            clash="adapter.frozen_adapters",
        )


def _check_targets(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Yield errors in the names of the adapted modules."""
    if adapter.kind not in MERGEABLE:
        return
    if not adapter.target_modules and not adapter.target_parameters:
        yield ConfigError(
            "adapter.target_modules",
            "adapter.target_modules is empty: there would be nothing to train",
            f"write adapter.target_modules=[{_ALL}], or names such as [q_proj,v_proj]",
        )
    if _ALL in adapter.target_modules and len(adapter.target_modules) > 1:
        others = ", ".join(name for name in adapter.target_modules if name != _ALL)
        yield ConfigError(
            "adapter.target_modules",
            f"adapter.target_modules names {_ALL} and {others}; {_ALL} must be the only entry",
            f"write [{_ALL}] or the names of all layers; to train the head, set adapter.modules_to_save=[lm_head]",
        )


def _check_patterns(adapter: AdapterConfig) -> Iterator[ConfigError]:
    """Yield an error for each invalid regular expression or value in a pattern mapping."""
    mappings = (("rank_pattern", adapter.rank_pattern, 1), ("alpha_pattern", adapter.alpha_pattern, 0))
    for name, patterns, least in mappings:
        for pattern, value in patterns.items():
            key = f"adapter.{name}"
            if (error := _regex_error(pattern)) is not None:
                yield ConfigError(key, f"{key}: {pattern!r} is not a regular expression: {error}", _REGULAR)
            if value < least or value == 0:
                limit = "at least 1" if least else "above 0"
                yield ConfigError(
                    key, f"{key} gives {pattern!r} {value:g}; it must be {limit}", f"write a number that is {limit}"
                )
    for name, listed in (("train", adapter.train), ("freeze", adapter.freeze)):
        for pattern in listed:
            if (error := _regex_error(pattern)) is not None:
                key = f"adapter.{name}"
                yield ConfigError(key, f"{key}: {pattern!r} is not a regular expression: {error}", _REGULAR)


_REGULAR = r"write one such as 'layers\.[0-3]\.', in quotes"


def _regex_error(pattern: str) -> str | None:
    """Return why a text is not a regular expression, or None."""
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return None
