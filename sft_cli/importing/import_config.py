"""Turn a config of another tool into a recipe, and print what became of each key."""

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
from sft_cli.importing.translation import Outcome, Translation


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
    """Return a path beside the given one that does not exist."""
    number = 2
    while (path := out.with_name(f"{out.stem}_{number}{out.suffix}")).exists():
        number += 1
    return path


def print_report(t: Translation, out: Path) -> None:
    """Print what became of each key, and the command that trains."""
    tool = TOOLS[t.config.tool or "trl"]
    say(f"config    {t.config.name}: {counted(len(t.config.values), 'key')} of {tool}")
    _section(t, Outcome.translated, "Translated", ("key", "here", "how"))
    _section(t, Outcome.changed, "Translated with another value", ("key", "here", "why"))
    _section(t, Outcome.implied, f"Defaults of {tool} that differ from those here", ("key", "here", "how"))
    _section(t, Outcome.default, "Equal to the default here", ("key", "here", "how"))
    _section(t, Outcome.none, "No equal, or not needed", ("key", "why"))
    if empty := [key for entry in by_outcome(t.entries, Outcome.empty) for key in entry.keys]:
        say(f"\nEmpty in the config, so not set: {', '.join(empty)}")
    if t.texts:
        say(f"template  {template_file(out)}")
    say(f"\nrecipe    {out}, composed without an error")
    say(f"next      {train_command(t, out)}")


def _section(t: Translation, outcome: Outcome, title: str, columns: tuple[str, ...]) -> None:
    """Print the keys with one outcome as a table."""
    entries = by_outcome(t.entries, outcome)
    if not entries:
        return
    say(f"\n{title}:")
    if len(columns) == 2:
        table(columns, [("\n".join(entry.keys), entry.reason) for entry in by_reason(entries)])
        return
    rows = [("\n".join(entry.keys), "\n".join(entry.ours), entry.reason) for entry in entries]
    with_reason = any(row[2] for row in rows)
    table(columns if with_reason else columns[:2], rows if with_reason else [row[:2] for row in rows])
