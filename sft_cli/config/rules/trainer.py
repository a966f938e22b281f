"""Rules of the keys of ``trainer`` and ``loss`` that go beyond types and limits."""

import re
from collections.abc import Callable, Collection, Iterator

from sft_cli.config.schema.adapter import AdapterKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.data import Role
from sft_cli.config.schema.speed import Choice
from sft_cli.config.schema.trainer import Average, OptimizerName, Schedule, TrainerConfig
from sft_cli.config.validate import ConfigError


def check_loss_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``loss`` with other keys."""
    loss, sources = config.loss, config.data.mix
    if loss.neftune and config.speed.share_prefixes is Choice.always:
        yield ConfigError(
            "loss.neftune",
            f"loss.neftune is {loss.neftune:g}, but speed.share_prefixes is always: "
            "examples that share tokens would share their noise",
            "set speed.share_prefixes=auto, or loss.neftune=0",
            clash="speed.share_prefixes",
        )
    if loss.replay is None:
        return
    replayed = {name: source for name, source in sources.items() if source.role is Role.replay}
    if sources and not replayed:
        yield ConfigError(
            "loss.replay",
            f"loss.replay is {loss.replay:g}, but no source is replayed",
            f"set data.mix.{next(iter(sources))}.role=replay, or remove loss.replay",
            clash="data.mix",
        )
    if sources and len(replayed) == len(sources):
        yield ConfigError(
            "loss.replay",
            f"loss.replay is {loss.replay:g}, but every source is replayed: there is nothing to add it to",
            "remove loss.replay",
            clash="data.mix",
        )
    for name, source in replayed.items():
        if len(replayed) == 1 and source.loss_weight != 1:
            yield ConfigError(
                f"data.mix.{name}.loss_weight",
                f"data.mix.{name}.loss_weight is {source.loss_weight:g}, but with loss.replay it would have no "
                "effect: the loss of replayed tokens is a separate mean",
                f"remove data.mix.{name}.loss_weight, or remove loss.replay",
                clash="loss.replay",
            )


_NAME = re.compile(r"[\w-]+")


def check_trainer_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``trainer`` with other keys."""
    trainer = config.trainer
    yield from _check_betas(trainer)
    yield from _check_lr_factors(trainer)
    yield from _check_schedule(trainer)
    yield from _check_retention(trainer)
    if trainer.optimizer is OptimizerName.muon and config.adapter.kind is not AdapterKind.none:
        kind = config.adapter.kind.value
        yield ConfigError(
            "trainer.optimizer",
            f"trainer.optimizer is muon with adapter={kind}: Muon trains the weight matrices of the model itself",
            "set trainer.optimizer=adamw, or choose adapter=none",
            clash="adapter.kind",
        )


def _check_betas(trainer: TrainerConfig) -> Iterator[ConfigError]:
    """Yield an error for each beta outside [0, 1)."""
    for key, betas in (("trainer.betas", trainer.betas), ("trainer.lion_betas", trainer.lion_betas)):
        for place, beta in enumerate(betas):
            if not 0 <= beta < 1:
                yield ConfigError(
                    key,
                    f"{key}.{place} is {beta}; it must be at least 0 and below 1",
                    f"write two numbers of at least 0 and below 1, or remove {key}",
                )


def _check_lr_factors(trainer: TrainerConfig) -> Iterator[ConfigError]:
    """Yield an error for each invalid pattern or factor."""
    for pattern, factor in trainer.lr_factors.items():
        key = f"trainer.lr_factors.{pattern}"
        try:
            re.compile(pattern)
        except re.error as error:
            yield ConfigError(
                key,
                f"{key}: {pattern!r} is not a regular expression: {error}",
                "write a part of parameter names, such as embed_tokens or layers\\.[0-3]\\.",
            )
        if factor <= 0:
            fix = "remove it, and freeze those parameters (adapter.freeze)" if factor == 0 else "write 0.1, or 10"
            yield ConfigError(key, f"{key} is {factor:g}; a factor on the learning rate must be above 0", fix)


def _check_schedule(trainer: TrainerConfig) -> Iterator[ConfigError]:
    """Yield errors in combinations of warm-up, decay and schedule."""
    warmup, decay = trainer.warmup_ratio, trainer.decay_ratio
    if trainer.schedule is Schedule.wsd and warmup + decay > 1:
        yield ConfigError(
            "trainer.decay_ratio",
            f"trainer.warmup_ratio and trainer.decay_ratio are {warmup:g} and {decay:g}, together more than all steps",
            f"set trainer.decay_ratio={round(1 - warmup, 4):g} or less",
            clash="trainer.warmup_ratio",
        )
    if trainer.schedule is Schedule.inverse_sqrt and warmup == 0:
        yield ConfigError(
            "trainer.warmup_ratio",
            "trainer.warmup_ratio is 0, but trainer.schedule is inverse_sqrt, which falls in units of the warm-up",
            "set trainer.warmup_ratio=0.03, or trainer.schedule=cosine",
            clash="trainer.schedule",
        )


def _check_retention(trainer: TrainerConfig) -> Iterator[ConfigError]:
    """Yield errors in the retention probes."""
    for name, probe in trainer.retention.probes.items():
        key = f"trainer.retention.probes.{name}"
        if not _NAME.fullmatch(name):
            yield ConfigError(
                key, f"{key}: the name {name!r} must consist of letters, digits, _ and -", f"rename {key}"
            )
        if probe.path is None:
            yield ConfigError(f"{key}.path", f"{key} has no path", f"add {key}.path=FILE")
    if trainer.retention.stop and not trainer.retention.probes:
        yield ConfigError(
            "trainer.retention.stop",
            "trainer.retention.stop is true, but there are no probes",
            "add trainer.retention.probes.NAME.path=FILE",
        )


_FLOORS = (Schedule.cosine_with_min_lr, Schedule.polynomial, Schedule.wsd)
_UNUSED: dict[str, tuple[Callable[[TrainerConfig], bool], str, str]] = {
    "trainer.min_lr_ratio": (
        lambda trainer: trainer.schedule not in _FLOORS,
        "only the schedules cosine_with_min_lr, polynomial and wsd read it",
        "set trainer.schedule=cosine_with_min_lr, polynomial or wsd",
    ),
    "trainer.decay_ratio": (
        lambda trainer: trainer.schedule is not Schedule.wsd,
        "only the schedule wsd reads it",
        "set trainer.schedule=wsd",
    ),
    "trainer.betas": (
        lambda trainer: trainer.optimizer in (OptimizerName.adafactor, OptimizerName.lion),
        "only AdamW reads them",
        "set trainer.optimizer=adamw, or trainer.lion_betas for lion",
    ),
    "trainer.lion_betas": (
        lambda trainer: trainer.optimizer is not OptimizerName.lion,
        "only Lion reads them",
        "set trainer.optimizer=lion, or trainer.betas for AdamW",
    ),
    "trainer.ema_decay": (
        lambda trainer: trainer.average is not Average.ema,
        "only trainer.average=ema reads it",
        "set trainer.average=ema",
    ),
    "trainer.average_last": (
        lambda trainer: trainer.average is not Average.last,
        "only trainer.average=last reads it",
        "set trainer.average=last",
    ),
    "trainer.retention.every": (
        lambda trainer: not trainer.retention.probes,
        "there are no probes",
        "add trainer.retention.probes.NAME.path=FILE",
    ),
}
"""Key -> condition under which it has no effect, the reason, and the fix."""


def unused_trainer_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect."""
    for key, (idle, why, fix) in _UNUSED.items():
        if key in explicit and idle(config.trainer):
            yield ConfigError(key, f"{key} would have no effect: {why}", f"{fix}, or remove {key}")
