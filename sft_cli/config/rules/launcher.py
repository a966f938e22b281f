"""Rules of the keys of ``launcher`` and ``distributed`` that go beyond types and limits."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields

from sft_cli.config.redaction import masked_address
from sft_cli.config.schema.adapter import AdapterKind, QuantKind
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import ContainerKind, DistributedKind, LauncherConfig, LauncherKind
from sft_cli.config.schema.trainer import Dtype, OptimizerName
from sft_cli.config.validate import ConfigError

_TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SECRET = re.compile(r"TOKEN(?!IZER)|KEY|SECRET|PASS(WORD|WD|PHRASE)|CREDENTIAL", re.IGNORECASE)
"""Names of variables whose values are secret."""
_SET = re.compile(r"\b([A-Za-z_]\w*)=[\"']?[^\s$`\"';]")
"""An assignment of a literal value to a variable in a shell line."""
_WHOLE_TENSORS = (
    OptimizerName.adamw_8bit,
    OptimizerName.paged_adamw_8bit,
    OptimizerName.adafactor,
    OptimizerName.muon,
)
"""Optimizers that cannot update sharded tensors: the update needs the whole matrix, or the kernel a plain tensor."""


def check_launcher_keys(config: Config) -> Iterator[ConfigError]:
    """Yield errors in combinations of the keys of ``launcher`` and ``distributed``."""
    yield from _check_slurm(config.launcher)
    yield from _check_distributed(config)


def _check_slurm(launcher: LauncherConfig) -> Iterator[ConfigError]:
    """Yield errors in the settings of a SLURM job."""
    if not _TIME.fullmatch(launcher.time):
        yield ConfigError(
            "launcher.time",
            f"launcher.time is {launcher.time!r}; it must be minutes, HH:MM:SS or D-HH:MM:SS",
            _time_fix(launcher.time),
        )
    elif launcher.signal_seconds >= (limit := _seconds(launcher.time)):
        yield ConfigError(
            "launcher.signal_seconds",
            f"launcher.signal_seconds is {launcher.signal_seconds}, but launcher.time is only {limit} seconds: "
            "the job would stop as soon as it begins",
            f"set launcher.signal_seconds={limit // 10}, or increase launcher.time",
            clash="launcher.time",
        )
    for key, names in (("launcher.env", list(launcher.env)), ("launcher.pass_env", launcher.pass_env)):
        for name in names:
            if not _VARIABLE.fullmatch(name):
                yield ConfigError(key, f"{key}: {name!r} is not the name of a variable", "write letters, digits and _")
    for name, value in launcher.env.items():
        if _SECRET.search(name) or masked_address(value) != value:
            yield _secret_in_config(f"launcher.env.{name}", f"launcher.env.{name}", name)
    for name in filter(_SECRET.search, _SET.findall(launcher.setup)):
        yield _secret_in_config("launcher.setup", f"launcher.setup sets {name}, which", name)
    for name in sorted({*launcher.pass_env} & {*launcher.env}):
        yield ConfigError(
            f"launcher.env.{name}",
            f"launcher.env.{name} has a value, and launcher.pass_env also takes {name} from the submitting shell",
            "remove one of the two",
            clash="launcher.pass_env",
        )
    container = launcher.container
    if (container.kind is ContainerKind.none) != (container.image is None):
        missing = "image" if container.image is None else "kind"
        fix = "launcher.container.image=image.sif" if missing == "image" else "launcher.container.kind=apptainer"
        yield ConfigError(
            f"launcher.container.{missing}",
            f"launcher.container has no {missing}, but launcher.container.{'kind' if missing == 'image' else 'image'}",
            f"set {fix}, or remove both",
        )


def _time_fix(text: str) -> str:
    """Return the fix for an invalid time limit; a number with a unit is converted."""
    match = re.fullmatch(r"(\d+)\s*(m|min|minutes?|h|hours?|hrs?|d|days?)", text.strip().lower())
    if match is None:
        return "write minutes, HH:MM:SS or D-HH:MM:SS, or remove launcher.time"
    units = {"m": f"{match[1]}", "h": f"{match[1]}:00:00", "d": f"{match[1]}-00:00:00"}
    return f"did you mean launcher.time={units[match[2][0]]}?"


def _secret_in_config(key: str, what: str, name: str) -> ConfigError:
    """Return the error for a secret that a config or a job script would contain."""
    return ConfigError(
        key,
        f"{what} looks like a secret, and would be written into the run directory",
        f"export it in the submitting shell, and pass only its name: launcher.pass_env=[{name}]",
    )


def _seconds(limit: str) -> int:
    """Return the seconds of a SLURM time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS."""
    days, dash, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(parts) < 3:
        minutes, seconds = (*parts, 0)[:2]
        return minutes * 60 + seconds
    return (parts[0] * 60 + parts[1]) * 60 + parts[2]


def _check_distributed(config: Config) -> Iterator[ConfigError]:
    """Yield an error for each setting that FSDP does not support."""
    distributed, trainer = config.distributed, config.trainer
    if distributed.kind is DistributedKind.ddp:
        return
    if trainer.optimizer in _WHOLE_TENSORS:
        yield ConfigError(
            "trainer.optimizer",
            f"trainer.optimizer is {trainer.optimizer.value}, which cannot update the tensor shards of fsdp",
            "set trainer.optimizer=adamw or lion, or distributed=ddp",
            clash="distributed.kind",
        )
    if trainer.dtype is Dtype.float16:
        yield ConfigError(
            "trainer.dtype",
            "trainer.dtype is float16, whose scaled gradients fsdp does not check across processes",
            "set trainer.dtype=bfloat16, or distributed=ddp",
            clash="distributed.kind",
        )
    if config.quant.kind is QuantKind.int8:
        yield ConfigError(
            "quant.kind",
            "quant.kind is int8, whose weights and scales cannot be sharded",
            "set quant=nf4, or distributed=ddp",
            clash="distributed.kind",
        )
    if config.loss.kl > 0 and config.adapter.kind in (AdapterKind.none, AdapterKind.bitfit):
        yield ConfigError(
            "loss.kl",
            "loss.kl needs a frozen copy of the model, which fsdp would not shard",
            "set loss.kl=0, adapter=lora, or distributed=ddp",
            clash="distributed.kind",
        )


_SLURM = tuple(f"launcher.{field.name}" for field in fields(LauncherConfig) if field.name not in ("kind", "nproc"))
_SHARDED = ("distributed.reshard", "distributed.replicas", "distributed.cpu_offload")
_IDLE: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str, str], ...] = (
    (
        _SLURM,
        lambda config: config.launcher.kind is LauncherKind.local,
        "the job runs in this shell",
        "choose launcher=slurm",
    ),
    (
        ("launcher.nproc",),
        lambda config: config.launcher.kind is LauncherKind.slurm and config.launcher.gpus > 0,
        "a job has one process for each of launcher.gpus",
        "set launcher.gpus",
    ),
    (
        ("launcher.requeues",),
        lambda config: config.launcher.chain > 1,
        "the next job of launcher.chain continues",
        "remove launcher.chain",
    ),
    (
        _SHARDED,
        lambda config: config.distributed.kind is DistributedKind.ddp,
        "each process holds the whole model",
        "choose distributed=fsdp",
    ),
)


def unused_launcher_keys(config: Config, explicit: Collection[str]) -> Iterator[ConfigError]:
    """Yield an error for each key on the command line that has no effect."""
    for keys, idle, why, fix in _IDLE:
        for key in sorted(explicit):
            if any(key == name or key.startswith(f"{name}.") for name in keys) and idle(config):
                yield ConfigError(key, f"{key} would have no effect: {why}", f"{fix}, or remove {key}")
