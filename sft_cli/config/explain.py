"""Texts of ``sft show`` and ``sft recipes``: values with their origin, the valid keys, and the recipes."""

import ast
import inspect
import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from itertools import chain
from pathlib import Path
from textwrap import fill, indent
from typing import Any, Union, get_args, get_origin

from sft_cli.config.compose import ComposedConfig, compose_values, to_config
from sft_cli.config.files.choices import recipe_file
from sft_cli.config.files.provenance import DEFAULT, Provenance
from sft_cli.config.files.search_path import GROUPS, display_name, search_path
from sft_cli.config.files.yaml_io import write_yaml
from sft_cli.config.keys.valid_keys import KEYS, Key, find_key
from sft_cli.config.redaction import redact_values
from sft_cli.config.schema import adapter, clean, config, data, launcher, speed, suites, synth, tracking, trainer
from sft_cli.config.validate import to_plain
from sft_cli.errors import SftError, raise_all

MODULES = (config, data, clean, launcher, adapter, trainer, speed, suites, synth, tracking)
"""Schema modules; each key has its documentation in one of them."""
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_COLUMN = 60
_WIDTH = 120
_HOW_TO_READ = """\
# Every key, as: name: type = default. On the command line write name=value, in a file the same names nested.
# <name> is a name of your choice:  trainer.retention.probes.facts.path=facts.jsonl
# [] is an item of a list, written in a file:  stages: [{name: short, share: 1}]
# A mapping takes entries:  trainer.lr_factors.embed_tokens=0.1  or  'trainer.lr_factors={embed_tokens: 0.1}'
# A list in brackets without spaces:  adapter.target_modules=[q_proj,v_proj]"""


def show_config(overrides: Sequence[str], config_dirs: Sequence[str] = (), *, changed: bool = False) -> str:
    """Return the composed config as YAML, each value followed by a comment with its origin.

    Args:
        overrides: Overrides as ``sft train`` takes them.
        config_dirs: Directories of recipes and options.
        changed: Leave out values that equal their default.

    Raises:
        SftError: Every mistake in the command line and the recipe.
    """
    composed = compose_values(overrides, config_dirs, {})
    values, origins = redact_values(to_plain(to_config(composed))), composed.provenance()
    if changed:
        values = _changed(values, origins)
    lines = list(_annotated_lines(values, "", 0, origins))
    if not lines:
        return f"{_choices(composed)}\n# every value is the default"
    width = min(_COLUMN, max(len(text) for text, origin in lines if origin))
    tree = "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines)
    return f"{_choices(composed)}\n{tree}"


def _changed(values: dict[str, Any], origins: Provenance, prefix: str = "") -> dict[str, Any]:
    """Return the values that differ from their default, in their sections; keys the user named count as changed.

    A number that is chosen for a default of auto is a default.
    """
    changed: dict[str, Any] = {}
    for name, value in values.items():
        key = find_key(f"{prefix}{name}")
        if isinstance(value, dict) and key is None:
            inner = _changed(value, origins, f"{prefix}{name}.")
            changed |= {name: inner} if inner else {}
        elif (key is None or value != to_plain(key.default)) and origins.of(f"{prefix}{name}") != DEFAULT:
            changed[name] = value
    return changed


def _choices(composed: ComposedConfig) -> str:
    """Return comment lines with the recipe and the chosen options of each group."""
    files = composed.files
    chosen = {group: [file.stem for file, _ in files if file.parent.name == group] for group in GROUPS}
    options = " ".join(f"{group}={','.join(names)}" for group, names in chosen.items())
    recipes = [display_name(file) for file, package in files if not package and file.stem != "config"]
    return f"# recipe: {' on '.join(reversed(recipes)) or 'none'}\n# options: {options}"


def _annotated_lines(values: dict[str, Any], prefix: str, depth: int, origins: Provenance) -> Iterator[tuple[str, str]]:
    """Yield each line with its origin; the origin is empty for a line that opens a section."""
    for name, value in values.items():
        key, indent = f"{prefix}{name}", "  " * depth
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _annotated_lines(value, f"{key}.", depth + 1, origins)
        else:
            yield f"{indent}{name}: {_inline_yaml(value)}", origins.of(key)


def _inline_yaml(value: Any) -> str:
    """Return the value as YAML on one line; a float is written as Python writes it."""
    if isinstance(value, float):
        return repr(value)
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, str) and "\n" in value
        else write_yaml(value, flow=True)
    )


def describe_keys(patterns: Sequence[str] = ()) -> str:
    """Return the groups with their options, and every key by section: type, limits, default and documentation.

    Args:
        patterns: Parts of names; only matching groups and keys are listed.

    Raises:
        SftError: Nothing matches.
    """
    wanted = [pattern.partition("=")[0].lower().replace("-", "_") for pattern in patterns]
    groups = [line for name, line in _group_lines() if _matches(name, wanted)]
    sections: dict[str, list[Key]] = {}
    for key in KEYS.values():
        if _matches(key.name, wanted) or any(find_key(pattern) == key for pattern in wanted):
            sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    if not sections and not groups:
        raise SftError(
            where=f"sft show --keys {' '.join(patterns)}",
            problem="no group and no key matches",
            fix="list all of them: sft show --keys",
        )
    blocks = [] if patterns else [_HOW_TO_READ]
    blocks += ["\n".join(["# Groups and their options, chosen as group=option:", *groups])] if groups else []
    for section, own in sections.items():
        title = fill(f"{section}: {summary(own[0].section)}".removeprefix(": "), _WIDTH - 2)
        entries = [f"{key.name}: {_type(key)} = {_inline_yaml(to_plain(key.default))}\n{_indented(key)}" for key in own]
        blocks.append("\n".join([indent(title, "# "), *entries]))
    return "\n\n".join(blocks)


def _matches(name: str, wanted: Sequence[str]) -> bool:
    """Return whether a name contains one of the parts, or there are no parts."""
    return not wanted or any(part in name for part in wanted)


def _group_lines() -> Iterator[tuple[str, str]]:
    """Yield the name of each group, and a line with its options, including the user's."""
    for group, options in search_path().options.items():
        listed = fill(", ".join(options), _WIDTH, initial_indent=f"{group}=", subsequent_indent="    ")
        yield group, listed


def summary(section: type) -> str:
    """Return the first paragraph of a section's docstring on one line."""
    return _as_markdown(inspect.cleandoc(section.__doc__ or "").split("\n\n")[0])


def _indented(key: Key) -> str:
    """Return the documentation of a key, indented and wrapped."""
    return fill(key_doc(key), _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def key_doc(key: Key) -> str:
    """Return the string under the key's field in the schema, as Markdown."""
    lines = _documentation()
    field = key.section.__name__, key.name.split(".")[-1]
    assert field in lines, f"{key.name} has no line under it in config/schema/config.py"
    return lines[field]


@cache
def _documentation() -> dict[tuple[str, str], str]:
    """Return the string under every field of the schema, by class and field."""
    lines = {}
    bodies = [ast.parse(inspect.getsource(module)).body for module in MODULES]
    for section in chain.from_iterable(bodies):
        if not isinstance(section, ast.ClassDef):
            continue
        for field, below in zip(section.body, [*section.body[1:], ast.Pass()], strict=True):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    lines[section.name, name] = _as_markdown(text)
    return lines


def _as_markdown(text: str) -> str:
    """Return a docstring on one line, its literals between single backticks."""
    return " ".join(text.split()).replace("``", "`")


def _type(key: Key) -> str:
    """Return the key's type in words, with its limits: ``whole number >= 1, or null``."""
    bounds = "".join(f" {_BOUNDS[name]} {bound}" for name, bound in key.limits.items())
    return describe_type(key.kind, bounds)


def describe_type(kind: Any, bounds: str = "") -> str:
    """Return a type in words."""
    if get_origin(kind) in (Union, types.UnionType):
        kept = [describe_type(part, bounds) for part in get_args(kind) if part is not types.NoneType]
        return " or ".join(kept) + (", or null" if types.NoneType in get_args(kind) else "")
    if get_origin(kind) is dict:
        return f"mapping of names to {describe_type(get_args(kind)[1])}"
    if get_origin(kind) is list:
        return f"list of {describe_type(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"list of {len(get_args(kind))} x {describe_type(get_args(kind)[0])}"
    if is_dataclass(kind):
        return "sections"
    if issubclass(kind, Enum):
        return " | ".join(member.value for member in kind)
    return {bool: "true | false", int: "whole number", float: "number", str: "text"}[kind] + bounds


def describe_recipes(names: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> str:
    """Return a line about every recipe, or all header comments of the named recipes.

    Raises:
        SftError: A name is not the name of a recipe.
    """
    places = search_path(config_dirs)
    if names:
        names = [name.removeprefix("recipe=") for name in names]
        mistakes, files = [], []
        for name in names:
            try:
                files.append((name, recipe_file(name, places, "sft recipes")))
            except SftError as error:
                mistakes.append(error)
        raise_all(mistakes)
        blocks = [
            [f"{name}  ({display_name(file)})", *(f"    {line}" for line in header_lines(file))] for name, file in files
        ]
        return "\n\n".join("\n".join(block) for block in blocks)
    recipes = [(name, file) for name, files in sorted(places.recipes.items()) for file in files]
    width = max(len(name) for name, _ in recipes)
    lines = [fill(_needs(file), _WIDTH, initial_indent=f"{name:<{width}}  ",
                  subsequent_indent=" " * (width + 2)) for name, file in recipes]  # fmt: skip
    return "\n".join([*lines, "", "sft recipes NAME prints its whole description; sft train recipe=NAME runs it."])


def _needs(file: Path) -> str:
    """Return the requirements of a recipe in a sentence; its first line if no line begins with ``Needs``."""
    lines = header_lines(file) or ["its file has no comment about its requirements"]
    sentence = next((line for line in lines if line.startswith(("Needs ", "Needs,"))), lines[0])
    return sentence.partition(". ")[0].removesuffix(".")


def header_lines(file: Path) -> list[str]:
    """Return the comment lines at the top of a recipe: command, requirements, sources of its numbers."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return lines
