"""Recipe + overrides -> Config. All of Hydra and OmegaConf lives here; mistakes are told all at once, and plainly."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from sft_cli.config.automatic import with_learning_rate
from sft_cli.config.files.choices import check_options, expand_choices, read_defaults, recipe_file
from sft_cli.config.files.interpolation import escape_references, interpolate, unescape_references
from sft_cli.config.files.provenance import COMMAND_LINE, DEFAULT, Provenance, key_lines
from sft_cli.config.files.search_path import GROUPS, SearchPath, display_name, package_dir, search_path
from sft_cli.config.files.yaml_io import read_yaml, write_yaml, yaml_error
from sft_cli.config.overrides.grammar import parse_value
from sft_cli.config.overrides.parse import ParsedOverrides, parse_overrides
from sft_cli.config.redaction import redact_values
from sft_cli.config.rules.check import check_consistency
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import escape_missing, from_plain, merge_at, to_plain
from sft_cli.errors import SftError, raise_all
from sft_cli.utils.mappings import flatten

_CHOSEN = "chosen"
_FORMER = (("eval", "suite"),)
"""Keys that configs of earlier runs hold, and that decide nothing any more."""

Files = Sequence[tuple[Path, str]]
Merged = tuple[dict[str, Any], Callable[[], Files]]
"""What Hydra makes of chosen options: the merged values, and what lists the files they came from."""


@dataclass(frozen=True)
class ComposedConfig:
    """A composed config before it is typed.

    Attributes:
        values: Plain and nested, with defaults, references resolved.
        files: Lists the files it was merged from, each with the key it was merged at, in order.
        words: The command line.
        mistakes: What has been found wrong so far.
    """

    values: dict[str, Any]
    files: Callable[[], Files]
    words: ParsedOverrides
    mistakes: tuple[SftError, ...]

    def provenance(self) -> Provenance:
        """Where each value came from; reads the files again, so only messages and ``sft show`` ask for it."""
        lines: dict[str, str] = {}
        for file, package in self.files():
            lines |= key_lines(file, package)
        typed = {leaf for key, value in self.words.values.items() for leaf, _ in flatten(value, key, keep_empty=True)}
        return Provenance(lines, typed, set(self.words.groups))


def compose(
    overrides: Sequence[str], config_dirs: Sequence[str] = (), known: dict[str, Merged] | None = None
) -> Config:
    """The config of a command line.

    Args:
        overrides: ``group=option`` and ``key=value`` words.
        config_dirs: Directories that hold recipes, or folders of group options.
        known: What Hydra made of the same choices, of these directories, a moment ago; grows. Nearly all the time goes
            there, so many command lines that choose alike are composed fast.

    Raises:
        SftError: Every mistake of the command line and the recipe.
    """
    return to_config(compose_values(overrides, config_dirs, {} if known is None else known))


def to_config(composed: ComposedConfig) -> Config:
    """The values as a Config, if nothing at all is wrong with them."""
    config, found = from_plain(composed.values)
    if config is not None:
        config = with_learning_rate(_widen_micro_batch(config, composed))
    if config is not None and not composed.mistakes:
        found = check_consistency(config, composed.words.explicit_keys())
    origins = composed.provenance() if found else Provenance({})
    raise_all([*composed.mistakes, *(origins.locate(mistake) for mistake in found)])
    assert config is not None
    return config


def _widen_micro_batch(config: Config, composed: ComposedConfig) -> Config:
    """The config with micro-batches that take the longest example, unless somebody has set their size."""
    speed, longest = config.speed, config.trainer.max_length
    key = "speed.tokens_per_micro_batch"
    if speed.tokens_per_micro_batch >= longest or composed.provenance().of(key) != DEFAULT:
        return config
    return replace(config, speed=replace(speed, tokens_per_micro_batch=longest))


def compose_values(overrides: Sequence[str], config_dirs: Sequence[str], known: dict[str, Merged]) -> ComposedConfig:
    """The plain values of a command line, and what is wrong with its words, its choices and its recipe."""
    found = search_path(config_dirs)
    words = parse_overrides(overrides, parse_value, found.recipes, found.options)
    mistakes = list(words.mistakes)
    groups = _valid_choices(words, found, mistakes)
    recipes: dict[str, Path] = {}
    name = words.groups.get("recipe", "null")
    if name not in ("null", ""):
        _store_recipe(_CHOSEN, str(name), COMMAND_LINE, found, recipes, mistakes)
    chosen, before = json.dumps(words.groups, sort_keys=True), len(mistakes)
    values, files = known[chosen] if chosen in known else _compose_groups(groups, found, recipes, mistakes)
    if len(mistakes) == before:
        known[chosen] = copy.deepcopy(values), files
    for key, value in words.values.items():
        merge_at(values, key.split("."), value)
    values, wrong = interpolate(values)
    if wrong:
        values = to_plain(Config())
    return ComposedConfig(values, files, words, (*mistakes, *wrong))


def recipe_chooses(group: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> bool:
    """Whether the recipe of a command line, not the default, decides which option of a group is taken.

    Raises:
        SftError: A mistake of the overrides that keeps the recipe from being read.
    """
    files = [file for file, _ in compose_values(overrides, config_dirs, {}).files() if file.parent.name == group]
    return [file for file in files if file != package_dir("configs") / group / "local.yaml"] != []


def with_overrides(config: Config, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Config:
    """The config with values, or whole groups (``data=local``), replaced.

    Raises:
        SftError: Every mistake of the overrides.
    """
    found = search_path(config_dirs)
    words = parse_overrides(overrides, parse_value, found.recipes, found.options)
    mistakes = list(words.mistakes)
    if "recipe" in words.groups:
        problem, fix = "a run keeps its recipe", "set single values, or start a new run with recipe=…"
        mistakes.append(SftError(where=COMMAND_LINE, problem=problem, fix=fix))
    groups = _valid_choices(words, found, mistakes)
    fresh, files = _compose_groups(groups, found, {}, mistakes) if groups else ({}, tuple)
    values = to_plain(config) | {group: fresh[group] for group in groups}
    for key, value in words.values.items():
        merge_at(values, key.split("."), value)
    return to_config(ComposedConfig(values, files, words, tuple(mistakes)))


def dump_config(config: Config) -> str:
    """The config as YAML that ``load``, a person and any other program can read; signatures of addresses are masked."""
    return write_yaml(redact_values(to_plain(config)))


def read_config(path: str | Path) -> Config:
    """The config of a run directory's config.yaml.

    Raises:
        SftError: The file is missing, or anything in it is wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise SftError(
            where=str(file), problem="there is no such file", fix="name a run directory that sft train wrote"
        )
    values = read_yaml(file)
    for section, key in _FORMER:
        if isinstance(held := values.get(section), dict):
            held.pop(key, None)
    return to_config(ComposedConfig(values, lambda: [(file, "")], ParsedOverrides({}, {}, ()), ()))


def _valid_choices(words: ParsedOverrides, found: SearchPath, mistakes: list[SftError]) -> dict[str, str | list[str]]:
    """The options chosen on the command line that exist; the others become mistakes."""
    right: dict[str, str | list[str]] = {}
    for group in GROUPS:
        if group in words.groups:
            wrong = check_options(group, words.groups[group], found, COMMAND_LINE)
            mistakes += wrong
            if not wrong:
                right[group] = words.groups[group]
    return right


def _store_recipe(
    mount: str, name: str, where: str, found: SearchPath, recipes: dict[str, Path], mistakes: list[SftError]
) -> None:
    """Store a recipe, and those it builds on, where Hydra finds them: as ``recipe/<mount>``."""
    try:
        file = recipe_file(name, found, where)
        content = expand_choices(read_yaml(file), found)
    except SftError as error:
        mistakes.append(error)
        return
    chosen, bases, wrong = read_defaults(content, display_name(file))
    mistakes += wrong
    recipes[mount] = file
    for base in bases:
        if base not in recipes:
            _store_recipe(base, base, display_name(file), found, recipes, mistakes)
    overrides = []
    for group, option in chosen.items():
        wrong = check_options(group, option, found, display_name(file))
        mistakes += wrong
        overrides += [] if wrong else [{f"override /{group}": option}]
    defaults = [base for base in bases if base in recipes]
    node = escape_references(escape_missing(content)) | {"defaults": [*defaults, "_self_", *overrides]}
    ConfigStore.instance().store(group="recipe", name=mount, node=node, package="_global_")


def _compose_groups(
    groups: Mapping[str, str | list[str]], found: SearchPath, recipes: Mapping[str, Path], mistakes: list[SftError]
) -> Merged:
    """What Hydra makes of the chosen options."""
    ConfigStore.instance().store(name="schema", node=to_plain(Config()))
    searchpath = ",".join(json.dumps(f"file://{folder.resolve()}", ensure_ascii=False) for folder in found.dirs)
    choices = [f"{group}=[{','.join(o)}]" if isinstance(o, list) else f"{group}={o}" for group, o in groups.items()]
    overrides = [f"hydra.searchpath=[{searchpath}]", *choices, *([f"recipe={_CHOSEN}"] if recipes else [])]
    try:
        with initialize_config_dir(str(package_dir("configs")), version_base="1.3"):
            merged = OmegaConf.to_container(hydra_compose("config", overrides))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        mistakes.append(yaml_error(Path(mark.name if mark else " ".join(choices)), error))
    except Exception as error:  # beside its own, Hydra raises whatever its parts run into on an odd option file
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0]
        fix = "correct the file of the option that was chosen last, or leave it out"
        where = " ".join(choices) or COMMAND_LINE
        mistakes.append(SftError(where=where, problem=f"cannot be composed: {reason}", fix=fix))
    else:
        assert isinstance(merged, dict)
        plain = {str(key): unescape_references(value) for key, value in merged.items()}
        return plain, partial(_merged_files, overrides, found, recipes)
    return to_plain(Config()), tuple


def _merged_files(overrides: list[str], found: SearchPath, recipes: Mapping[str, Path]) -> Files:
    """The files Hydra merges for the overrides, each with the key it is merged at, in order."""
    with initialize_config_dir(str(package_dir("configs")), version_base="1.3"):
        listed = GlobalHydra.instance().config_loader().compute_defaults_list("config", overrides, RunMode.RUN)
    folders = (package_dir("configs"), *found.dirs)
    places = (
        (_source_file(entry.config_path or "", folders, recipes), entry.package or "") for entry in listed.defaults
    )
    return [(file, package.removeprefix("_global_")) for file, package in places if file is not None]


def _source_file(config_path: str, folders: Sequence[Path], recipes: Mapping[str, Path]) -> Path | None:
    """The file behind an entry of Hydra's list; None for the schema and Hydra's own."""
    group, _, name = config_path.rpartition("/")
    if group == "recipe":
        return recipes[name]
    return next((file for folder in folders if (file := folder / f"{config_path}.yaml").is_file()), None)
