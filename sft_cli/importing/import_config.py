"""Turn a config of another tool into a recipe, and print what became of each key."""

import re
from collections.abc import Sequence
from pathlib import Path

from sft_cli.config.keys.typos import shell_quote
from sft_cli.console import counted, say, table
from sft_cli.errors import SftError
from sft_cli.importing.foreign_config import TOOLS, ForeignConfig
from sft_cli.importing.read_config import READERS, read_foreign
from sft_cli.importing.recipe import (
    by_outcome,
    by_reason,
    check_recipe,
    recipe_text,
    template_file,
    train_command,
    write_recipe,
)
from sft_cli.importing.translation import Entry, Outcome, Translation


def import_config(
    given: str, tool: str | None, out: Path, *, gpus: int | None, rows: int | None, row_tokens: int | None
) -> Translation:
    """Write the recipe of a config, and return the translation.

    Args:
        given: A file, or a line of arguments in quotes.
        tool: axolotl, llama-factory or trl; None recognizes it.
        out: The recipe to write; it must be new.
        gpus: GPUs of a step; None takes those of the config, else 1.
        rows: Training rows; None if they are not known.
        row_tokens: Mean length of a row in tokens; None if it is not known.

    Raises:
        SftError: The config cannot be read or translated, or the recipe exists.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise SftError(
            where="--out", problem=f"{out} is not a YAML file", fix=f"write --out {shell_quote(f'{out}.yaml')}"
        )
    if out.exists():
        fix = f"name a new file: sft import {shell_quote(given)} --out {shell_quote(str(_unused(out)))}"
        raise SftError(where=str(out), problem="the file exists", fix=fix)
    t = translate(read_foreign(given, tool), gpus=gpus, rows=rows, row_tokens=row_tokens)
    text = recipe_text(t, out)
    check_recipe(t, text)
    write_recipe(t, text, out)
    print_report(t, out)
    return t


def translate(
    config: ForeignConfig, *, gpus: int | None = None, rows: int | None = None, row_tokens: int | None = None
) -> Translation:
    """Return the translation of a config whose tool is known."""
    assert config.tool is not None
    reader = READERS[config.tool]
    t = Translation(config, reader.DEFAULTS, gpus=gpus or config.gpus or 1, rows=rows, row_tokens=row_tokens)
    reader.translate(t)
    t.finish()
    return t


def _unused(out: Path) -> Path:
    """Return a path next to the given one that does not exist."""
    number = 2
    while (path := out.with_name(f"{out.stem}_{number}{out.suffix}")).exists():
        number += 1
    return path


def print_report(t: Translation, out: Path) -> None:
    """Print what became of each key, and the command that trains."""
    tool = TOOLS[t.config.tool or "trl"]
    say(f"config    {t.config.name}: {counted(len(t.config.values), 'key')} of {tool}")
    titles = {
        Outcome.translated: "Translated",
        Outcome.changed: "Translated with another value",
        Outcome.implied: f"Defaults of {tool} that differ from those here",
        Outcome.default: "Equal to the default here",
    }
    for outcome, title in titles.items():
        _section(title, [("\n".join(entry.keys), _here(entry)) for entry in by_outcome(t.entries, outcome)])
    lost = by_reason(by_outcome(t.entries, Outcome.none))
    _section("No equal, or not needed", [("\n".join(entry.keys), entry.reason) for entry in lost])
    if empty := [key for entry in by_outcome(t.entries, Outcome.empty) for key in entry.keys]:
        say(f"\nEmpty in the config, so not set: {', '.join(empty)}")
    if t.texts:
        say(f"template  {template_file(out)}")
    say(f"\nrecipe    {out}, composed without an error")
    say(f"next      {train_command(t, out)}")


def _section(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print keys and what became of them as a table of two columns, which fits any terminal."""
    if rows:
        say(f"\n{title}:")
        table(("key", "here"), rows)


def _here(entry: Entry) -> str:
    """Return what keys became, and below it why; lists with spaces, at which a terminal can break them."""
    words = [re.sub(r",(?=\S)", ", ", word) for word in entry.ours]
    return "\n".join([*words, f"({entry.reason})"] if entry.reason else words)
