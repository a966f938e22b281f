"""Rules of the keys of ``speed`` that go beyond types and limits."""

from collections.abc import Callable, Collection, Iterator

from sft_cli.config.schema.config import Config
from sft_cli.config.schema.fields import Auto
from sft_cli.config.schema.speed import Checkpointing, Choice
from sft_cli.config.schema.trainer import Device
from sft_cli.config.validate import ConfigError


def check_speed_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``speed`` with other keys."""
    speed, tokens, longest = config.speed, config.speed.tokens_per_micro_batch, config.trainer.max_length
    if not isinstance(tokens, Auto) and tokens < longest:
        yield ConfigError(
            "speed.tokens_per_micro_batch",
            f"speed.tokens_per_micro_batch is {tokens}, less than trainer.max_length, {longest}: "
            "the longest example would not fit",
            f"remove it, set speed.tokens_per_micro_batch={longest}, or trainer.max_length={tokens}",
            clash="trainer.max_length",
        )
    if speed.gradient_checkpointing is Checkpointing.layers and speed.checkpointed_layers is None:
        yield ConfigError(
            "speed.gradient_checkpointing",
            "speed.gradient_checkpointing is layers, but speed.checkpointed_layers is not set",
            "set speed.checkpointed_layers=8, or speed.gradient_checkpointing=auto",
        )
    if speed.kernels is Choice.always and config.trainer.device is Device.cpu:
        yield ConfigError(
            "speed.kernels",
            "speed.kernels is always, but trainer.device is cpu, and the kernels are for CUDA",
            "set speed.kernels=auto or trainer.device=cuda",
            clash="trainer.device",
        )


_UNUSED: dict[str, tuple[Callable[[Config], bool], str, str]] = {
    "speed.checkpointed_layers": (
        lambda config: config.speed.gradient_checkpointing is not Checkpointing.layers,
        "only speed.gradient_checkpointing=layers reads it",
        "set speed.gradient_checkpointing=layers",
    ),
    "speed.threads": (
        lambda config: config.trainer.device is Device.cuda,
        "only runs on a CPU read it",
        "set trainer.device=cpu",
    ),
}
"""Key -> condition under which it has no effect, the reason, and the fix."""


def unused_speed_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect."""
    for key, (idle, why, fix) in _UNUSED.items():
        if key in explicit and idle(config):
            yield ConfigError(key, f"{key} would have no effect: {why}", f"{fix}, or remove {key}")
