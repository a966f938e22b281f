"""The recipe and the group options that were asked for: do they exist, and which files are they?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_cli.config.elsewhere import VALUES_ELSEWHERE
from sft_cli.config.locate import GROUPS, Places, packaged, shown
from sft_cli.config.names import nearest
from sft_cli.config.yamls import read_yaml
from sft_cli.errors import SftError


def recipe_file(name: str, places: Places, where: str) -> Path:
    """The file of a recipe given by name or path.

    Raises:
        SftError: No such recipe, or two of that name.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        for file in (Path(name).expanduser(), Path(f"{name}.yaml").expanduser()):
            if file.is_file():
                return file
        raise SftError(where=where, problem=f"there is no recipe file {name}", fix=_recipe_fix(Path(name).stem, places))
    if name not in places.recipes:
        raise SftError(where=where, problem=f"there is no recipe {name!r}", fix=_recipe_fix(name, places))
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
    own = packaged("configs"), packaged("recipes")
    inside = [any(file.is_relative_to(folder) for folder in own) for file in files]
    return " and ".join(shown(file) + " (package)" * known for file, known in zip(files, inside, strict=True))


def _recipe_fix(name: str, places: Places) -> str:
    meant = nearest(name, places.recipes)
    return f"did you mean recipe={meant}? `sft recipes` lists all" if meant else "`sft recipes` lists them"


def wrong_options(group: str, chosen: Any, places: Places, where: str) -> list[SftError]:
    """What is wrong with the option, or list of options, chosen for a group; nothing if all is well."""
    if isinstance(chosen, list) and group != "data":
        problem = f"{group} takes one option, not {len(chosen)}"
        return [SftError(where=where, problem=problem, fix=f"choose one of {', '.join(places.options[group])}")]
    return [
        error
        for option in (chosen if isinstance(chosen, list) else [chosen])
        if (error := _wrong_option(group, option, places, where)) is not None
    ]


def _wrong_option(group: str, option: Any, places: Places, where: str) -> SftError | None:
    files = places.options[group].get(option, ()) if isinstance(option, str) else ()
    if len(files) == 1:
        return _unreadable(files[0], places)
    if files:
        problem = f"{group}={option} is ambiguous: {_list(files)}"
        return SftError(where=where, problem=problem, fix="rename one of the files")
    choices = ", ".join(places.options[group])
    known = [name for name in VALUES_ELSEWHERE.get(str(option), ()) if name in places.options[group]]
    meant = known[0] if known else nearest(str(option), places.options[group])
    hint = _value_hint(group, str(option)) or (f"did you mean {group}={meant}? " if meant else "")
    return SftError(where=where, problem=f"{group} has no option {option!r}", fix=f"{hint}options: {choices}")


def _unreadable(file: Path, places: Places) -> SftError | None:
    """Why Hydra must not read an option file of the user's, or those it builds on; the package's own are known."""
    own = [one for options in places.options.values() for found in options.values() for one in found]
    try:
        if file.is_relative_to(packaged("configs")):
            return None
        base = read_yaml(file).get("defaults", [])
        for other in own if base not in ([], ["_self_"]) else ():
            if not other.is_relative_to(packaged("configs")):
                read_yaml(other)
    except SftError as error:
        return error
    return None


MEANT = {
    ("adapter", "qlora"): "adapter=lora quant=nf4",
    ("adapter", "full"): "adapter=none",
    ("adapter", "freeze"): "adapter=none adapter.freeze=[NAMES]",
    ("quant", "4bit"): "quant=nf4",
    ("quant", "8bit"): "quant=int8",
    ("quant", "int4"): "quant=nf4",
}
"""Options as other tools call them."""


def _value_hint(group: str, option: str) -> str:
    """For someone who wrote the thing itself where the name of an option belongs."""
    if "," in option:
        return f"for several write {group}=[{option}]; " if group == "data" else ""
    if group == "model" and "/" in option:
        return f"for a directory or hub id write model.path={option}; "
    if group == "data" and ("/" in option or "." in option):
        return f"for a file or hub id write data=local data.mix.local.path={option}; "
    if group == "template" and option.endswith(".jinja"):
        return f"for a file write template.path={option}; "
    meant = MEANT.get((group, option))
    return f"write {meant}; " if meant else ""


def defaults_of(recipe: Mapping[Any, Any], where: str) -> tuple[dict[str, Any], list[str], list[SftError]]:
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
        fix = f"write `- override /<group>: <option>`, or the name of a recipe to build on; groups: {', '.join(GROUPS)}"
        mistakes.append(SftError(where=where, problem=f"defaults: {entry!r} is not understood", fix=fix))
    return chosen, bases, mistakes
