"""The members of a sweep: their settings, all checked before the first one runs, and the names of their directories."""

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
TOLD = 50
"""Members from which the check is announced: it takes a tenth of a second each."""
LONGEST_VALUE, LONGEST_NAME = 24, 80
"""Characters of a value, and of all, in the name of a member's directory."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: From 1, in the order of the values.
        name: Of its directory below the sweep's: ``003-lr=1e-4_rank=8``.
        values: Its value of each swept key, as it was typed.
    """

    number: int
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will run.

    Attributes:
        keys: The swept keys and groups.
        members: In the order they start.
        configs: Their settings.
    """

    keys: tuple[str, ...]
    members: tuple[Trial, ...]
    configs: tuple[Config, ...]

    def distinct_data(self) -> list[Config]:
        """One config for each set of settings that prepared data may depend on."""
        return list({_data_settings(config): config for config in reversed(self.configs)}.values())[::-1]


def plan_sweep(words: Sequence[str], config_dirs: Sequence[str] = ()) -> SweepPlan:
    """The members that words with several values stand for.

    Raises:
        SftError: Every mistake of every member, each told once.
    """
    sweep = expand_sweep(words, config_dirs)
    if len(sweep.members) > TOLD:
        say(f"check     the settings of {counted(len(sweep.members), 'member')}")
    configs, mistakes, known = [], dict[str, SftError](), dict[str, Merged]()
    for member in sweep.members:
        try:
            config = compose(member, config_dirs, known)
            check_required(config)
            configs.append(config)
        except SftError as error:
            for one in error.errors if isinstance(error, Mistakes) else (error,):
                mistakes.setdefault(str(one), one)
    raise_all(list(mistakes.values()))
    raise_all(list(_check_together(sweep, configs)))
    return SweepPlan(sweep.keys, tuple(_named_trials(sweep)), tuple(configs))


def short_names(keys: Sequence[str]) -> list[str]:
    """Each key's last parts, as few as tell it from the others: ``lr`` for trainer.lr."""

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


def _named_trials(sweep: SweepOverrides) -> Iterator[Trial]:
    """The members with their names; the number keeps those apart whose values look alike."""
    digits = max(3, len(str(len(sweep.members))))
    names = short_names(sweep.keys)
    for number, values in enumerate(sweep.values, 1):
        pairs = [f"{name}={_safe_name(value)}" for name, value in zip(names, values, strict=True)]
        yield Trial(number, f"{number:0{digits}}-{'_'.join(pairs)[:LONGEST_NAME]}".rstrip("_-.="), values)


def _safe_name(value: str) -> str:
    """A value as part of a directory's name, which no shell has to quote."""
    return _UNSAFE.sub("-", value).strip("-")[:LONGEST_VALUE]


def _check_together(sweep: SweepOverrides, configs: Sequence[Config]) -> Iterator[SftError]:
    """What no member has wrong alone."""
    if any(config.run_dir is not None for config in configs):
        yield SftError(
            where="run_dir",
            problem="each member of a sweep has its own directory",
            fix="leave run_dir out, and name the sweep's directory with --out DIR",
        )
    if configs[0].prepared_dir is not None and len({_data_settings(config) for config in configs}) > 1:
        yield SftError(
            where="prepared_dir",
            problem="the members need data prepared in different ways, and one directory holds one of them",
            fix="leave prepared_dir out: each is then kept under its fingerprint",
        )
    if len({config.launcher.kind for config in configs}) > 1:
        problem = "some members would run here and some as SLURM jobs"
        yield SftError(where=COMMAND_LINE, problem=problem, fix="choose launcher=local or launcher=slurm for all")
    elif configs[0].launcher.kind is LauncherKind.slurm:
        differing = [key for key in sweep.keys if key.partition(".")[0] in ("launcher", "distributed")]
        if differing:
            problem = f"{', '.join(differing)} would differ between the jobs of one array"
            yield SftError(where=COMMAND_LINE, problem=problem, fix="give it one value, or submit several sweeps")
    seen: dict[str, tuple[str, ...]] = {}
    for config, values in zip(configs, sweep.values, strict=True):
        other = seen.setdefault(json.dumps(to_plain(config)), values)
        if other is not values:
            one, two = (" ".join(map("=".join, zip(sweep.keys, words, strict=True))) for words in (other, values))
            problem = f"two members would train the same: {one}, and {two}"
            yield SftError(where=COMMAND_LINE, problem=problem, fix="leave one of them out")


def _data_settings(config: Config) -> str:
    """All that decides what is prepared, and what does not matter only where that costs nothing to look at."""
    parts: dict[str, Any] = to_plain(config)
    trainer = {key: parts["trainer"][key] for key in ("max_length", "seed")}
    kept = {key: parts[key] for key in ("prepared_dir", "model", "data", "clean", "template")}
    return json.dumps(kept | trainer)
