"""What ``sft show`` and ``sft recipes`` print: values with their origin, the keys there are, the recipes there are."""

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

from sft_cli.config import adapter_schema, clean_schema, data_schema, launcher_schema, schema, trainer_schema
from sft_cli.config.compose import Composed, assemble, typed
from sft_cli.config.lines import Origins
from sft_cli.config.locate import GROUPS, places, shown
from sft_cli.config.names import KEYS, Key
from sft_cli.config.secrets import masked
from sft_cli.config.typed import as_plain
from sft_cli.config.yamls import write_yaml

MODULES = (schema, data_schema, clean_schema, launcher_schema, adapter_schema, trainer_schema)
"""Where the keys of a config and the lines about them stand."""
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_COLUMN = 60
_WIDTH = 120
_HOW_TO_READ = """\
# Every key, as: name: type = default. On the command line write name=value, in a file the same names nested.
# <name> is a name of your choice:  trainer.retention.probes.facts.path=facts.jsonl
# [] is a place in a list, written in a file:  stages: [{name: short, share: 1}]
# A mapping takes entries:  trainer.lr_factors.embed_tokens=0.1  or  'trainer.lr_factors={embed_tokens: 0.1}'
# A list in brackets without spaces:  adapter.target_modules=[q_proj,v_proj]"""


def show(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> str:
    """The composed config as YAML; a comment beside every value says where it came from.

    Raises:
        SftError: Every mistake of the command line and the recipe.
    """
    composed = assemble(overrides, config_dirs, {})
    lines = list(_tree(masked(as_plain(typed(composed))), "", 0, composed.origins()))
    width = min(_COLUMN, max(len(text) for text, origin in lines if origin))
    tree = "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines)
    return f"{_choices(composed)}\n{tree}"


def _choices(composed: Composed) -> str:
    """Comment lines with the options that were chosen, by group, and the recipe."""
    files = composed.files()
    chosen = {group: [file.stem for file, _ in files if file.parent.name == group] for group in GROUPS}
    options = " ".join(f"{group}={','.join(names)}" for group, names in chosen.items())
    recipes = [shown(file) for file, package in files if not package and file.stem != "config"]
    return f"# recipe: {' on '.join(reversed(recipes)) or 'none'}\n# options: {options}"


def _tree(values: dict[str, Any], prefix: str, depth: int, origins: Origins) -> Iterator[tuple[str, str]]:
    """Each line with its origin; a line that only opens a section has none."""
    for name, value in values.items():
        key, indent = f"{prefix}{name}", "  " * depth
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _tree(value, f"{key}.", depth + 1, origins)
        else:
            yield f"{indent}{name}: {_spelled(value)}", origins.of(key)


def _spelled(value: Any) -> str:
    """The value as YAML on one line; a float as Python writes it."""
    if isinstance(value, float):
        return repr(value)
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, str) and "\n" in value
        else write_yaml(value, flow=True)
    )


def keys() -> str:
    """Every key by section with its type, limits, default and the line the schema says about it."""
    sections: dict[str, list[Key]] = {}
    for key in KEYS.values():
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    blocks = [_HOW_TO_READ]
    for section, own in sections.items():
        title = fill(f"{section}: {_summary(own[0].section)}".removeprefix(": "), _WIDTH - 2)
        entries = [f"{key.name}: {_type(key)} = {_spelled(as_plain(key.default))}\n{_indented(key)}" for key in own]
        blocks.append("\n".join([indent(title, "# "), *entries]))
    return "\n\n".join(blocks)


def _summary(section: type) -> str:
    """The first paragraph of a section's docstring on one line."""
    return " ".join(inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].split())


def _indented(key: Key) -> str:
    """The line about a key below it, broken where it is long."""
    return fill(about(key), _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


def about(key: Key) -> str:
    """The string under the key's field in the schema."""
    found = _documentation()
    place = key.section.__name__, key.name.split(".")[-1]
    assert place in found, f"{key.name} has no line under it in config/schema.py"
    return found[place]


@cache
def _documentation() -> dict[tuple[str, str], str]:
    """The string under every field of the schema, by class and field."""
    found = {}
    bodies = [ast.parse(inspect.getsource(module)).body for module in MODULES]
    for section in chain.from_iterable(bodies):
        if not isinstance(section, ast.ClassDef):
            continue
        for field, below in zip(section.body, [*section.body[1:], ast.Pass()], strict=True):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[section.name, name] = " ".join(text.split())
    return found


def _type(key: Key) -> str:
    """The key's type in words, with its limits: ``whole number >= 1, or null``."""
    bounds = "".join(f" {_BOUNDS[name]} {bound}" for name, bound in key.limits.items())
    return spell_type(key.kind, bounds)


def spell_type(kind: Any, bounds: str = "") -> str:
    """A type as a person says it."""
    if get_origin(kind) in (Union, types.UnionType):
        kept = [spell_type(part, bounds) for part in get_args(kind) if part is not types.NoneType]
        return " or ".join(kept) + (", or null" if types.NoneType in get_args(kind) else "")
    if get_origin(kind) is dict:
        return f"mapping of names to {spell_type(get_args(kind)[1])}"
    if get_origin(kind) is list:
        return f"list of {spell_type(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        return f"list of {len(get_args(kind))} x {spell_type(get_args(kind)[0])}"
    if is_dataclass(kind):
        return "sections"
    if issubclass(kind, Enum):
        return " | ".join(member.value for member in kind)
    return {bool: "true | false", int: "whole number", float: "number", str: "text"}[kind] + bounds


def recipes(config_dirs: Sequence[str] = ()) -> str:
    """Every recipe there is to choose, with the comment lines its file begins with."""
    blocks = []
    for name, files in sorted(places(config_dirs).recipes.items()):
        for file in files:
            blocks.append("\n".join([f"{name}  ({shown(file)})", *(f"    {line}" for line in header(file))]))
    return "\n\n".join(blocks)


def header(file: Path) -> list[str]:
    """The comment lines at the top of a recipe: its command, what it needs, where its numbers come from."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return lines
