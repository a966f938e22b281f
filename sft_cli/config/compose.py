"""Compose recipe, group options and overrides into a Config, and report all mistakes at once.

Hydra decides which files are merged, in which order and at which key (its defaults list, ``# @package`` and search
path). The files are read and merged here, so that values are read by one YAML loader and no resolver is called.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from sft_cli.config.automatic import with_learning_rate
from sft_cli.config.files.choices import check_options, expand_choices, read_defaults, recipe_file
from sft_cli.config.files.interpolation import interpolate
from sft_cli.config.files.provenance import COMMAND_LINE, Provenance
from sft_cli.config.files.search_path import GROUPS, SearchPath, display_name, package_dir, search_path
from sft_cli.config.files.yaml_io import key_lines, read_yaml, write_yaml
from sft_cli.config.overrides.grammar import parse_value
from sft_cli.config.overrides.parse import ParsedOverrides, parse_overrides
from sft_cli.config.redaction import redact_values
from sft_cli.config.rules.check import check_consistency
from sft_cli.config.schema.config import Config
from sft_cli.config.validate import from_plain, to_plain
from sft_cli.errors import SftError, raise_all
from sft_cli.utils.mappings import flatten, merge_at

_CHOSEN = "chosen"
_FORMER = (("eval", "suite"),)
"""Keys of earlier configs that have no effect now."""

Files = Sequence[tuple[Path, str]]
"""Files in the order in which they are merged, each with the key at which it is merged; empty is the top."""
Merged = tuple[dict[str, Any], Files]
"""The merged values of chosen options, and the files that they came from."""
Recipes = dict[str, tuple[Path, dict[Any, Any]]]
"""The file and the content of each chosen recipe, by the name under which Hydra finds it."""


@dataclass(frozen=True)
class ComposedConfig:
    """A composed config before its types are checked.

    Attributes:
        values: Nested plain values with defaults; references are replaced.
        files: The files that were merged.
        words: The command line.
        mistakes: The mistakes found so far.
    """

    values: dict[str, Any]
    files: Files
    words: ParsedOverrides
    mistakes: tuple[SftError, ...]

    def provenance(self) -> Provenance:
        """Return the origin of each value. This reads the files again, so it is called only where it is needed."""
        lines: dict[str, str] = {}
        for file, package in self.files:
            prefix = f"{package}." if package else ""
            lines |= {f"{prefix}{key}": f"{display_name(file)}:{line}" for key, line in key_lines(file)}
        typed = {leaf for key, value in self.words.values.items() for leaf, _ in flatten(value, key, keep_empty=True)}
        return Provenance(lines, typed, set(self.words.groups))


def compose(
    overrides: Sequence[str], config_dirs: Sequence[str] = (), known: dict[str, Merged] | None = None
) -> Config:
    """Return the config of a command line.

    Args:
        overrides: ``group=option`` and ``key=value`` words.
        config_dirs: Directories with recipes, or with folders of group options.
        known: A cache of merged files by choices, for many command lines with the same directories. Nearly all the
            time goes into merging.

    Raises:
        SftError: Every mistake of the command line and the recipe.
    """
    return to_config(compose_values(overrides, config_dirs, {} if known is None else known))


def to_config(composed: ComposedConfig) -> Config:
    """Return the values as a Config; raise SftError with all mistakes if there are any."""
    config, found = from_plain(composed.values)
    if config is not None:
        config = with_learning_rate(config)
    if config is not None and not composed.mistakes:
        found = check_consistency(config, composed.words.explicit_keys())
    origins = composed.provenance() if found else Provenance({})
    raise_all([*composed.mistakes, *(origins.locate(mistake) for mistake in found)])
    assert config is not None
    return config


def compose_values(overrides: Sequence[str], config_dirs: Sequence[str], known: dict[str, Merged]) -> ComposedConfig:
    """Return the plain values of a command line, and the mistakes in its words, choices and recipe."""
    found = search_path(config_dirs)
    words = parse_overrides(overrides, parse_value, found.recipes, found.options)
    mistakes = list(words.mistakes)
    groups = _valid_choices(words, found, mistakes)
    recipes: Recipes = {}
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
    """Whether the recipe of a command line, not the default, chooses the option of a group.

    Raises:
        SftError: The recipe cannot be read, because of a mistake in the overrides.
    """
    files = [file for file, _ in compose_values(overrides, config_dirs, {}).files if file.parent.name == group]
    return [file for file in files if file != package_dir("configs") / group / "local.yaml"] != []


def with_overrides(config: Config, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Config:
    """Return the config with values, or whole groups (``data=local``), replaced.

    Raises:
        SftError: Every mistake of the overrides.
    """
    found = search_path(config_dirs)
    words = parse_overrides(overrides, parse_value, found.recipes, found.options)
    mistakes = list(words.mistakes)
    if "recipe" in words.groups:
        problem, fix = (
            "the recipe of a run cannot be changed",
            "remove recipe, or start a new run with it: sft train recipe=NAME",
        )
        mistakes.append(SftError(where=COMMAND_LINE, problem=problem, fix=fix))
    groups = _valid_choices(words, found, mistakes)
    fresh, files = _compose_groups(groups, found, {}, mistakes) if groups else ({}, ())
    values = to_plain(config) | {group: fresh[group] for group in groups}
    for key, value in words.values.items():
        merge_at(values, key.split("."), value)
    return to_config(ComposedConfig(values, files, words, tuple(mistakes)))


def dump_config(config: Config) -> str:
    """Return the config as YAML; signatures in URLs are masked."""
    return write_yaml(redact_values(to_plain(config)))


def read_config(path: str | Path) -> Config:
    """Return the config in the config.yaml of a run directory.

    Raises:
        SftError: The file is missing, or anything in it is wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise SftError(
            where=str(file), problem="the file does not exist", fix="name a run directory that sft train wrote"
        )
    values = read_yaml(file)
    for section, key in _FORMER:
        if isinstance(held := values.get(section), dict):
            held.pop(key, None)
    return to_config(ComposedConfig(values, [(file, "")], ParsedOverrides({}, {}, ()), ()))


def _valid_choices(words: ParsedOverrides, found: SearchPath, mistakes: list[SftError]) -> dict[str, str | list[str]]:
    """Return the chosen options of the command line that exist; the others become mistakes."""
    right: dict[str, str | list[str]] = {}
    for group in GROUPS:
        if group in words.groups:
            wrong = check_options(group, words.groups[group], found, COMMAND_LINE)
            mistakes += wrong
            if not wrong:
                right[group] = words.groups[group]
    return right


def _store_recipe(
    mount: str, name: str, where: str, found: SearchPath, recipes: Recipes, mistakes: list[SftError]
) -> None:
    """Register the choices of a recipe, and of those it builds on, with Hydra as ``recipe/<mount>``."""
    try:
        file = recipe_file(name, found, where)
        content = expand_choices(read_yaml(file), found)
    except SftError as error:
        mistakes.append(error)
        return
    chosen, bases, wrong = read_defaults(content, display_name(file))
    mistakes += wrong
    recipes[mount] = file, content
    for base in bases:
        if base not in recipes:
            _store_recipe(base, base, display_name(file), found, recipes, mistakes)
    overrides = []
    for group, option in chosen.items():
        wrong = check_options(group, option, found, display_name(file))
        mistakes += wrong
        overrides += [] if wrong else [{f"override /{group}": option}]
    defaults = [base for base in bases if base in recipes]
    node = {"defaults": [*defaults, "_self_", *overrides]}
    ConfigStore.instance().store(group="recipe", name=mount, node=node, package="_global_")


def _compose_groups(
    groups: Mapping[str, str | list[str]], found: SearchPath, recipes: Recipes, mistakes: list[SftError]
) -> Merged:
    """Merge the defaults of the schema, the chosen options and the recipes."""
    searchpath = ",".join(json.dumps(f"file://{folder.resolve()}", ensure_ascii=False) for folder in found.dirs)
    choices = [f"{group}=[{','.join(o)}]" if isinstance(o, list) else f"{group}={o}" for group, o in groups.items()]
    overrides = [f"hydra.searchpath=[{searchpath}]", *choices, *([f"recipe={_CHOSEN}"] if recipes else [])]
    values = to_plain(Config())
    try:
        layers = _list_layers(overrides, found, recipes)
        for _, package, content in layers:
            for name, value in content.items():
                if name != "defaults":
                    merge_at(values, [*filter(None, package.split(".")), str(name)], value)
    except SftError as error:
        mistakes.append(error)
    except Exception as error:  # Hydra also raises exceptions of other libraries for a malformed option file
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0]
        fix = "correct the file of the option that was chosen last, or remove it"
        where = " ".join(choices) or COMMAND_LINE
        mistakes.append(SftError(where=where, problem=f"cannot be composed: {reason}", fix=fix))
    else:
        return values, [(file, package) for file, package, _ in layers]
    return to_plain(Config()), ()


def _list_layers(
    overrides: list[str], found: SearchPath, recipes: Recipes
) -> list[tuple[Path, str, Mapping[Any, Any]]]:
    """Return the file, the key and the content of each entry of Hydra's defaults list, in the order of merging."""
    with initialize_config_dir(str(package_dir("configs")), version_base="1.3"):
        listed = GlobalHydra.instance().config_loader().compute_defaults_list("config", overrides, RunMode.RUN)
    folders = (package_dir("configs"), *found.dirs)
    layers = []
    for entry in listed.defaults:
        package = (entry.package or "").removeprefix("_global_")
        group, _, name = (entry.config_path or "").rpartition("/")
        if group == "recipe":
            layers.append((recipes[name][0], package, recipes[name][1]))
            continue
        files = [file for folder in folders if (file := folder / f"{entry.config_path}.yaml").is_file()]
        if files:  # Hydra's own entries have none
            layers.append((files[0], package, read_yaml(files[0])))
    return layers
