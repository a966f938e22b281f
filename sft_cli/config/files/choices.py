"""The recipe and the group options that were asked for: do they exist, and which files are they?"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.files.provenance import COMMAND_LINE
from sft_cli.config.files.search_path import GROUPS, SearchPath, display_name, package_dir
from sft_cli.config.files.yaml_io import read_yaml
from sft_cli.config.keys.aliases import VALUE_ALIASES
from sft_cli.config.keys.translate import is_data_path
from sft_cli.config.keys.typos import shell_quote
from sft_cli.errors import SftError
from sft_cli.utils.home import expand_home
from sft_cli.utils.similar import closest_name


def recipe_file(name: str, places: SearchPath, where: str) -> Path:
    """The file of a recipe given by name or path.

    Raises:
        SftError: No such recipe, or two of that name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        for file in (expand_home(name), expand_home(f"{name}.yaml")):
            if file.is_file():
                return file
        raise missing_recipe_file(name, places.recipes, where)
    if name not in places.recipes:
        raise SftError(where=where, problem=f"there is no recipe {name!r}", fix=_recipe_fix(name, places.recipes))
    first, *others = places.recipes[name]
    if others:
        raise SftError(
            where=where,
            problem=f"the recipe {name!r} is ambiguous: {_list((first, *others))}",
            fix=f"name the file: recipe=./{others[-1].as_posix()}",
        )
    return first


def _list(files: Sequence[Path]) -> str:
    """The files of one name; the package's own is marked, since its path may read the same."""
    own = package_dir("configs"), package_dir("recipes")
    inside = [any(file.is_relative_to(folder) for folder in own) for file in files]
    return " and ".join(display_name(file) + " (package)" * known for file, known in zip(files, inside, strict=True))


def missing_recipe_file(name: str, recipes: Collection[str], where: str) -> SftError:
    """Return the error for a recipe file that does not exist; the fix names a similar file, or a similar recipe."""
    folder = expand_home(name).parent
    files = [file.name for file in sorted(folder.glob("*.y*ml"))]
    near = closest_name(Path(name).name, files) or (files[0] if len(files) == 1 else None)
    path = Path(name).parent / (near or "")
    typed = f"recipe={path}" if path.is_absolute() or str(path).startswith("~") else f"recipe=./{path}"
    fix = (
        f"did you mean {shell_quote(typed)}?" if near else f"correct the path; {_recipe_fix(Path(name).stem, recipes)}"
    )
    return SftError(where=where, problem=f"there is no recipe file {name}", fix=fix)


def _recipe_fix(name: str, recipes: Collection[str]) -> str:
    """The recipe that was meant, one that begins alike, a file of that name here, or how to list them."""
    alike = [known for known in recipes if len(name) > 2 and known.startswith(name)]
    files = [file for file in (Path(f"{name}.yaml"), Path(f"{name}.yml")) if file.is_file()]
    if files:
        return f"did you mean recipe=./{files[0]}?"
    meant = closest_name(name, recipes) or next(iter(alike), None)
    if meant:
        return f"did you mean recipe={meant}? `sft recipes` lists all"
    return "`sft recipes` lists the recipes"


def check_options(group: str, chosen: Any, places: SearchPath, where: str) -> list[SftError]:
    """What is wrong with the option, or list of options, chosen for a group; nothing if all is well."""
    if isinstance(chosen, list) and group not in SEVERAL:
        problem = f"{group} takes one option, not {len(chosen)}"
        options = places.options[group]
        first = next((one for one in chosen if one in options), next(iter(options)))
        typed = f"{group}={first}" if where == COMMAND_LINE else f"`{group}: {first}`"
        return [SftError(where=where, problem=problem, fix=f"{typed}; options: {', '.join(options)}")]
    return [
        error
        for option in (chosen if isinstance(chosen, list) else [chosen])
        if (error := _check_option(group, option, places, where)) is not None
    ]


def _check_option(group: str, option: Any, places: SearchPath, where: str) -> SftError | None:
    files = places.options[group].get(option, ()) if isinstance(option, str) else ()
    if len(files) == 1:
        return _unsafe_to_load(files[0], places)
    if files:
        problem = f"{group}={option} is ambiguous: {_list(files)}"
        return SftError(where=where, problem=problem, fix="rename one of the files")
    choices = ", ".join(places.options[group])
    known = [name for name in VALUE_ALIASES.get(str(option), ()) if name in places.options[group]]
    text = str(option)
    meant = known[0] if known else closest_name(text.lower(), places.options[group])
    hint = _value_hint(group, text) or (f"did you mean {group}={meant}? " if meant else "")
    if not hint and group == "template":
        hint = f"remove it: a model's own template comes with its tokenizer, {group}=auto; "
    if where != COMMAND_LINE:  # in a file the same choice is a line
        hint = re.sub(r"(=\w+) (?=[a-z]+=)", r"\1 and ", hint)
        hint = re.sub(r"\b([a-z]+)=([\w.-]+)(?=[ ;?])", r"`\1: \2`", hint)
    hint = hint or f"remove {group}; "
    return SftError(where=where, problem=f"{group} has no option {option!r}", fix=f"{hint}options: {choices}")


def _unsafe_to_load(file: Path, places: SearchPath) -> SftError | None:
    """Why Hydra must not read an option file of the user's, or those it builds on; the package's own are known."""
    own = [one for options in places.options.values() for found in options.values() for one in found]
    try:
        if file.is_relative_to(package_dir("configs")):
            return None
        base = read_yaml(file).get("defaults", [])
        for other in own if base not in ([], ["_self_"]) else ():
            if not other.is_relative_to(package_dir("configs")):
                read_yaml(other)
    except SftError as error:
        return error
    return None


MEANT = {
    ("adapter", "qlora"): "adapter=lora quant=nf4",
    ("adapter", "full"): "adapter=none",
    ("adapter", "freeze"): "adapter=none adapter.freeze=[NAMES]",
    ("adapter", "lora+"): "adapter=loraplus",
    ("adapter", "lora_plus"): "adapter=loraplus",
    ("adapter", "p_tuning"): "adapter=prompt",
    ("quant", "4bit"): "quant=nf4",
    ("quant", "8bit"): "quant=int8",
    ("quant", "int4"): "quant=nf4",
    ("quant", "4"): "quant=nf4",
    ("quant", "8"): "quant=int8",
    ("quant", "true"): "quant=nf4",
    ("quant", "false"): "quant=none",
    ("quant", "bnb"): "quant=nf4",
    ("template", "default"): "template=auto",
    ("template", "tokenizer_default"): "template=auto",
    ("distributed", "deepspeed"): "distributed=fsdp",
    ("distributed", "zero3"): "distributed=fsdp",
    ("distributed", "zero2"): "distributed=fsdp_zero2",
    ("launcher", "sbatch"): "launcher=slurm",
    ("clean", "none"): "'clean.steps=[]'",
    ("clean", "true"): "clean=standard",
}
"""Options as other tools call them."""
SEVERAL = ("data", "eval")
"""Groups of which several options can be chosen."""
PATHS = {"data": ("mix", "local", "path"), "model": ("path",), "template": ("path",)}
"""Groups that a recipe may set to a path -> where in the group it belongs."""


def _value_hint(group: str, option: str) -> str:
    """For someone who wrote the thing itself where the name of an option belongs."""
    if "," in option:
        return f"for several write {group}=[{option}]; " if group in SEVERAL else ""
    if group in PATHS and ("/" in option or "." in option):
        key = ".".join((group, *PATHS[group]))
        return f"for a file, directory or hub id write {shell_quote(f'{key}={option}')}; "
    meant = MEANT.get((group, option.lower()))
    return f"write {meant}; " if meant else ""


def expand_choices(recipe: Mapping[Any, Any], places: SearchPath) -> dict[Any, Any]:
    """The recipe, with ``quant: nf4`` and ``data: rows.jsonl`` as the choices they mean.

    A name, or a list of names, in the place of a group's keys chooses options; a path goes to the key that takes it.
    """
    content, chosen = dict(recipe), []
    for group in GROUPS:
        value = content.get(group)
        value = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else value
        if isinstance(value, list) and group in SEVERAL and all(isinstance(one, str) for one in value):
            chosen.append({f"override /{group}": value})
        elif not isinstance(value, str) or value == "???":
            continue
        elif value not in places.options[group] and group in PATHS and _is_path_value(group, value):
            inner: Any = value
            for name in reversed(PATHS[group]):
                inner = {name: inner}
            content[group] = inner
            continue
        else:
            chosen.append({f"override /{group}": value})
        del content[group]
    if not chosen:
        return content
    defaults = content.get("defaults", [])
    return content | {"defaults": [*(defaults if isinstance(defaults, list) else [defaults]), *chosen]}


def _is_path_value(group: str, value: str) -> bool:
    """Whether a recipe's text for a group is a path."""
    return value.endswith((".jinja", ".jinja2")) if group == "template" else "/" in value or is_data_path(value)


def read_defaults(recipe: Mapping[Any, Any], where: str) -> tuple[dict[str, Any], list[str], list[SftError]]:
    """The ``defaults:`` of a recipe.

    Returns:
        The options it chooses by group, the recipes it builds on, and what is wrong with the list.
    """
    chosen: dict[str, Any] = {}
    bases: list[str] = []
    mistakes: list[SftError] = []
    entries = recipe.get("defaults", [])
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):
            bases += [] if entry == "_self_" else [entry]
            continue
        if isinstance(entry, dict) and len(entry) == 1:
            ((name, option),) = entry.items()
            group = str(name).removeprefix("override ").strip().removeprefix("/")
            if name == f"override /{group}" and group in GROUPS:
                chosen[group] = option
                continue
            if group in GROUPS:
                fix = f"write `- override /{group}: {option}`"
                mistakes.append(SftError(where=where, problem=f"defaults: `{name}` chooses no option", fix=fix))
                continue
        fix = f"write `- override /GROUP: OPTION`, or the name of a recipe to build on; groups: {', '.join(GROUPS)}"
        mistakes.append(SftError(where=where, problem=f"defaults: {entry!r} is not understood", fix=fix))
    return chosen, bases, mistakes
