"""The members of a sweep: settings, checked before the first one runs, and directory names."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft_cli.config.compose import Merged, compose
from sft_cli.config.files.provenance import COMMAND_LINE
from sft_cli.config.overrides.sweep import SweepOverrides, expand_sweep
from sft_cli.config.rules.check import check_required
from sft_cli.config.schema.config import Config
from sft_cli.config.schema.launcher import LauncherKind
from sft_cli.config.validate import to_plain
from sft_cli.console import counted, say
from sft_cli.errors import Mistakes, SftError, raise_all

_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
ANNOUNCED = 50
"""Number of members from which the check is announced: it takes 0.1 s per member."""
LONGEST_VALUE, LONGEST_NAME = 24, 80
"""Most characters of a value, and of all values, in the name of a member's directory."""


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep.

    Attributes:
        number: Number from 1, in the order of the values.
        name: Name of its directory inside the sweep's: ``003-lr=1e-4_rank=8``.
        values: Value of each swept key, as typed.
    """

    number: int
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class SweepPlan:
    """The runs of a sweep.

    Attributes:
        keys: The swept keys and groups.
        members: The members in start order.
        configs: The config of each member.
    """

    keys: tuple[str, ...]
    members: tuple[Member, ...]
    configs: tuple[Config, ...]

    def distinct_data(self) -> list[Config]:
        """Return one config for each distinct set of settings that prepared data depend on."""
        return list({_data_settings(config): config for config in reversed(self.configs)}.values())[::-1]


def plan_sweep(words: Sequence[str], config_dirs: Sequence[str] = ()) -> SweepPlan:
    """Return the members of a command line with several values.

    Raises:
        SftError: Every mistake of every member, each reported once.
    """
    sweep = expand_sweep(words, config_dirs)
    if len(sweep.members) > ANNOUNCED:
        say(f"check     the settings of {counted(len(sweep.members), 'member')}")
    configs, mistakes, known = [], dict[str, SftError](), dict[str, Merged]()
    for member in sweep.members:
        try:
            config = compose(member, config_dirs, known)
            check_required(config)
            configs.append(config)
        except SftError as error:
            for mistake in error.errors if isinstance(error, Mistakes) else (error,):
                mistakes.setdefault(str(mistake), mistake)
    raise_all(list(mistakes.values()))
    raise_all(list(_check_together(sweep, configs)))
    return SweepPlan(sweep.keys, tuple(_named_members(sweep)), tuple(configs))


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the shortest unique ending of each key: ``lr`` for trainer.lr."""

    def ending(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    return [
        next(
            ending(key, parts)
            for parts in range(1, key.count(".") + 2)
            if parts > key.count(".") or [ending(other, parts) for other in keys].count(ending(key, parts)) == 1
        )
        for key in keys
    ]


def _named_members(sweep: SweepOverrides) -> Iterator[Member]:
    """Yield the members with their names, whose number makes them unique."""
    digits = max(3, len(str(len(sweep.members))))
    names = short_names(sweep.keys)
    for number, values in enumerate(sweep.values, 1):
        pairs = [f"{name}={_safe_name(value)}" for name, value in zip(names, values, strict=True)]
        yield Member(number, f"{number:0{digits}}-{'_'.join(pairs)[:LONGEST_NAME]}".rstrip("_-.="), values)


def _safe_name(value: str) -> str:
    """Return a value as part of a directory name that needs no shell quoting."""
    return _UNSAFE.sub("-", value).strip("-")[:LONGEST_VALUE]


def _check_together(sweep: SweepOverrides, configs: Sequence[Config]) -> Iterator[SftError]:
    """Yield the errors in combinations of members."""
    if any(config.run_dir is not None for config in configs):
        yield SftError(
            where="run_dir",
            problem="each member of a sweep has its own directory",
            fix="remove run_dir; --out DIR is the sweep's directory",
        )
    if configs[0].prepared_dir is not None and len({_data_settings(config) for config in configs}) > 1:
        yield SftError(
            where="prepared_dir",
            problem="the members need different prepared data, but one directory holds only one data set",
            fix="remove prepared_dir: each data set is then stored under its fingerprint",
        )
    if len({config.launcher.kind for config in configs}) > 1:
        problem = "some members would run in this shell and some as SLURM jobs"
        yield SftError(where=COMMAND_LINE, problem=problem, fix="choose launcher=local or launcher=slurm for all")
    elif configs[0].launcher.kind is LauncherKind.slurm:
        differing = [key for key in sweep.keys if key.partition(".")[0] in ("launcher", "distributed")]
        if differing:
            problem = f"{', '.join(differing)} would differ between the jobs of one array"
            yield SftError(
                where=COMMAND_LINE,
                problem=problem,
                fix=f"one value for a sweep: {differing[0]}={sweep.values[0][sweep.keys.index(differing[0])]}",
            )
    seen: dict[str, tuple[str, ...]] = {}
    for config, values in zip(configs, sweep.values, strict=True):
        other = seen.setdefault(json.dumps(to_plain(config)), values)
        if other is not values:
            first, second = (" ".join(map("=".join, zip(sweep.keys, words, strict=True))) for words in (other, values))
            problem = f"two members would train the same: {first}, and {second}"
            yield SftError(where=COMMAND_LINE, problem=problem, fix=f"remove {second}")


def _data_settings(config: Config) -> str:
    """Return a text of the settings that prepared data may depend on, including some that do not matter."""
    parts: dict[str, Any] = to_plain(config)
    trainer = {key: parts["trainer"][key] for key in ("max_length", "seed")}
    kept = {key: parts[key] for key in ("prepared_dir", "model", "data", "clean", "template")}
    return json.dumps(kept | trainer)
