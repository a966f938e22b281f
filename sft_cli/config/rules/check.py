"""Check that the values of a config fit together, and that it contains all that a command needs."""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Literal

from sft_cli.config.automatic import may_hold_out
from sft_cli.config.keys.typos import override_word
from sft_cli.config.redaction import check_secrets
from sft_cli.config.rules.adapter import check_adapter_keys
from sft_cli.config.rules.clean import check_clean_keys, unused_clean_keys
from sft_cli.config.rules.data import check_data_keys, check_source_keys, unused_data_keys
from sft_cli.config.rules.eval_suites import check_eval_suites, unused_eval_suite_keys
from sft_cli.config.rules.launcher import check_launcher_keys, unused_launcher_keys
from sft_cli.config.rules.model import check_model_keys
from sft_cli.config.rules.speed import check_speed_keys, unused_speed_keys
from sft_cli.config.rules.suites import check_retention, check_suite_keys, unused_suite_keys
from sft_cli.config.rules.synth import check_synth_keys, unused_synth_keys
from sft_cli.config.rules.tracking import check_tracking_keys
from sft_cli.config.rules.trainer import check_loss_keys, check_trainer_keys, unused_trainer_keys
from sft_cli.config.rules.unused_adapter_keys import unused_adapter_keys
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import LauncherKind
from sft_cli.config.schema.trainer import Device, Dtype, OptimizerName
from sft_cli.config.validate import ConfigError
from sft_cli.errors import SftError, raise_all

_NAME = re.compile(r"[\w-]+")
_WRONG = re.compile(r"[^\w-]+")


def check_consistency(config: Config, explicit: Collection[str] = ()) -> list[ConfigError]:
    """Return the errors in combinations of keys, and the ``explicit`` keys that would have no effect."""
    errors = [*check_speed_keys(config), *_check_names(config), *check_data_keys(config.data)]
    errors += [*check_source_keys(config.data), *check_clean_keys(config.clean), *check_secrets(config)]
    errors += [
        *check_model_keys(config),
        *check_adapter_keys(config),
        *check_loss_keys(config),
        *check_trainer_keys(config),
        *check_suite_keys(config.eval),
        *check_eval_suites(config),
        *check_retention(config.eval),
        *check_synth_keys(config),
    ]
    errors += check_launcher_keys(config)
    errors += check_tracking_keys(config)
    unused = [*unused_data_keys(config.data, explicit), *unused_clean_keys(config.clean, explicit)]
    unused += [
        *unused_adapter_keys(config, explicit),
        *unused_trainer_keys(config, explicit),
    ]
    unused += [*unused_speed_keys(config, explicit), *unused_launcher_keys(config, explicit)]
    unused += [*unused_suite_keys(config.eval, explicit), *unused_eval_suite_keys(config, explicit)]
    unused += unused_synth_keys(config, explicit)
    return errors + list(_unused_keys(config, explicit)) + unused


def check_required(config: Config, command: Literal["prepare", "train", "eval"] = "train") -> None:
    """Check that the config contains all that the command needs.

    ``prepare`` needs data and a tokenizer; ``eval`` needs data and a model; ``train`` also needs a device and held-out
    rows that suit its settings.

    Raises:
        SftError: Every missing or contradictory value.
    """
    errors = []
    if config.model.path is None and (command != "prepare" or config.model.tokenizer is None):
        fix = "add model.path=DIR_OR_HUB_ID, or start from a recipe (list them: sft recipes)"
        errors.append(SftError(where="model.path", problem="no model is named", fix=fix))
    if not config.data.mix:
        fix = "add data.mix.local.path=FILE_OR_HUB_ID"
        errors.append(SftError(where="data.mix", problem="no data is named", fix=fix))
    for name, source in config.data.mix.items():
        if source.path is None:
            fix = f"add data.mix.{name}.path=FILE_OR_HUB_ID"
            errors.append(SftError(where=f"data.mix.{name}", problem="the source has no path", fix=fix))
    if command == "train":
        mistakes = [*_check_device(config), *_check_held_out(config)]
        errors += [SftError(where=key, problem=problem, fix=fix) for key, problem, fix, _ in mistakes]
    raise_all(errors)


def _check_device(config: Config) -> Iterator[ConfigError]:
    """Yield errors in the combination of device, dtype and optimizer."""
    trainer = config.trainer
    if trainer.device is Device.cpu and trainer.dtype is Dtype.float16:
        yield ConfigError(
            "trainer.dtype",
            "trainer.dtype is float16 on trainer.device=cpu, where gradients in float16 overflow unnoticed",
            "set trainer.dtype=float32 or trainer.dtype=bfloat16",
        )
    if trainer.device is Device.cpu and trainer.optimizer is OptimizerName.paged_adamw_8bit:
        yield ConfigError(
            "trainer.optimizer",
            "trainer.optimizer is paged_adamw_8bit, which needs CUDA, but trainer.device is cpu",
            "set trainer.optimizer=adamw_8bit, or adamw, which is much faster on a CPU",
        )
    if config.launcher.kind is LauncherKind.slurm and config.launcher.gpus == 0 and trainer.device is Device.cuda:
        yield ConfigError(
            "launcher.gpus",
            "launcher.gpus is 0, but trainer.device is cuda",
            "set launcher.gpus=1 or trainer.device=cpu",
        )


def _check_held_out(config: Config) -> Iterator[ConfigError]:
    """Yield an error for each setting that needs held-out rows where there are none."""
    sources, held_out = config.data.mix, may_hold_out(config)
    fix = "set data.val_fraction=0.05, or a source's validation_path"
    if sources and not held_out and config.trainer.patience is not None and config.trainer.best is None:
        yield ConfigError("trainer.patience", "trainer.patience is set, but no rows are held out to evaluate", fix)
    if sources and not held_out and config.eval.compare_after_training:
        yield ConfigError(
            "eval.compare_after_training",
            "eval.compare_after_training is true, but no rows are held out to compare",
            fix,
        )
    if config.eval.compare_after_training and not config.eval.generate:
        yield ConfigError(
            "eval.compare_after_training",
            "eval.compare_after_training is true, but eval.generate is false: there would be no answers to compare",
            "set eval.generate=true or eval.compare_after_training=false",
        )


def _check_names(config: Config) -> Iterator[ConfigError]:
    """Yield an error for each name that cannot be part of a file name."""
    for key, name in {"run_name": config.run_name, **{f"data.mix.{name}": name for name in config.data.mix}}.items():
        if not _NAME.fullmatch(name):
            yield ConfigError(
                key,
                f"{key}: the name {name!r} must consist of letters, digits, _ and -",
                f"write {override_word(key, _WRONG.sub('_', name).strip('_') or 'run')}"
                if key == "run_name"
                else f"name it {_WRONG.sub('_', name)} instead",
            )
    for name, source in config.data.mix.items():
        if source.validation_path is not None and source.validation_split is not None:
            yield ConfigError(
                f"data.mix.{name}.validation_path",
                f"data.mix.{name} names both validation_path and validation_split",
                "keep one of them",
            )


_IDLE: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str], ...] = (
    (
        ("template.name",),
        lambda config: config.template.path is not None,
        "template.path takes precedence; set one of them",
    ),
)


def _unused_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect; a recipe may contain such keys."""
    for keys, idle, reason in _IDLE:
        for key in keys:
            if key in explicit and idle(config):
                why, _, fix = reason.partition("; ")
                yield ConfigError(key, f"{key} would have no effect: {why}", f"{fix}, or remove {key}")
