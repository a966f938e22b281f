"""Write the recipe of a translation, after composing it."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_cli.config.compose import compose
from sft_cli.config.files.yaml_io import write_yaml
from sft_cli.config.keys.typos import shell_quote
from sft_cli.config.schema.config import Config
from sft_cli.errors import Mistakes, SftError, raise_all
from sft_cli.importing.foreign_config import TOOLS
from sft_cli.importing.translation import Entry, Outcome, Translation
from sft_cli.utils.atomic import write_atomic

_COLUMN = 40
"""Column of the comments of a recipe."""


def recipe_text(t: Translation, out: Path) -> str:
    """Return the YAML of the recipe; what has no equal is in its comments."""
    tool = TOOLS[t.config.tool or "trl"]
    lines = ["# @package _global_", f"# {train_command(t, out)}", f"# Imported from {t.config.name} ({tool})."]
    lost = by_reason(by_outcome(t.entries, Outcome.none))
    if lost:
        lines += ["# Without an equal here, or not needed:"]
        lines += [f"#   {', '.join(entry.keys)}: {entry.reason}" for entry in lost]
    if t.choices:
        lines += ["defaults:", *(f"  - override /{group}: {option}" for group, option in t.choices.items()), ""]
    values = dict(t.values)
    if t.texts:
        values["template"] = {**values.get("template", {}), "path": str(template_file(out))}
    return "\n".join(lines) + "\n" + "\n".join(_commented(values, "", t.comments)) + "\n"


def train_command(t: Translation, out: Path) -> str:
    """Return the command that trains by the recipe."""
    path = out.as_posix()
    named = path if out.is_absolute() or "/" in path else f"./{path}"
    return " ".join(["sft train", shell_quote(f"recipe={named}"), *t.questions])


def template_file(out: Path) -> Path:
    """Return the file of a template that the config holds as text."""
    return out.with_suffix(".jinja")


def _commented(values: Mapping[str, Any], prefix: str, comments: Mapping[str, str]) -> list[str]:
    """Return the lines of nested values, each with the keys it came from as a comment."""
    lines = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        indent = "  " * prefix.count(".")
        if isinstance(value, Mapping) and value and key not in comments:
            lines += [f"{indent}{write_yaml(str(name), flow=True)}:", *_commented(value, f"{key}.", comments)]
            continue
        line = f"{indent}{write_yaml(str(name), flow=True)}: {_flow(value)}"
        origin = comments.get(key)
        lines.append(f"{line:<{_COLUMN - 1}} # {origin}" if origin else line)
    return lines


def _flow(value: Any) -> str:
    """Return a value as YAML on one line; a text of several lines in double quotes."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return (
            f"{{{', '.join(f'{write_yaml(str(name), flow=True)}: {_flow(entry)}' for name, entry in value.items())}}}"
        )
    return write_yaml(value, flow=True)


def check_recipe(t: Translation, text: str) -> Config:
    """Compose the recipe, and return its config.

    Raises:
        SftError: Values of the config do not fit together here; each names the keys that they come from.
    """
    sources = t.values.get("data", {}).get("mix", {})
    missing = [name for name, source in sources.items() if source.get("path") == "???"]
    placeholders = [f"data.mix.{name}.path=rows.jsonl" for name in missing]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        write_atomic(file, text)
        try:
            return compose([f"recipe={file}", *placeholders, *t.questions_with_values()])
        except SftError as error:
            raise_all([_located(t, one) for one in (error.errors if isinstance(error, Mistakes) else [error])])
            raise


def _located(t: Translation, error: SftError) -> SftError:
    """Return an error of the recipe as one of the config that was imported."""
    keys = [key for key in t.comments if key in error.problem or key in error.where]
    origin = ", ".join(dict.fromkeys(t.comments[key] for key in keys))
    where = f"{t.config.name}: {origin}" if origin else t.config.name
    fix = f"change it in {t.config.name} and import again: {error.fix}"
    return SftError(where=where, problem=error.problem, fix=fix)


def write_recipe(t: Translation, text: str, out: Path) -> None:
    """Write the recipe, and the template that it names.

    Raises:
        SftError: The directory cannot be created.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"the directory cannot be created: {error.strerror}"
        raise SftError(where=str(out.parent), problem=problem, fix="write --out FILE in another directory") from error
    if t.texts:
        write_atomic(template_file(out), t.texts[".jinja"])
    write_atomic(out, text)


def by_outcome(entries: list[Entry], outcome: Outcome) -> list[Entry]:
    """Return the entries with an outcome."""
    return [entry for entry in entries if entry.outcome is outcome]


def by_reason(entries: list[Entry]) -> list[Entry]:
    """Return the entries, those with the same reason as one."""
    keys: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        keys[entry.reason] = (*keys.get(entry.reason, ()), *entry.keys)
    return [Entry(named, Outcome.none, (), reason) for reason, named in keys.items()]
