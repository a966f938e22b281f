"""The page of a new run: recipes, what they compose to with further settings, and the command to start it."""

import shlex
import threading
from typing import Any

from sft_cli.config.explain import header_lines, show_config
from sft_cli.config.files.search_path import search_path
from sft_cli.errors import SftError

_composing = threading.Lock()
"""Hydra composes one config at a time in a process."""


def list_recipes() -> list[dict[str, Any]]:
    """Return every recipe with the comment lines of its file."""
    found = search_path().recipes
    return [{"name": name, "about": header_lines(files[0])} for name, files in sorted(found.items())]


def compose_run(recipe: str, typed: str, *, changed: bool = True) -> dict[str, str]:
    """Return the command that starts a run and the YAML that it composes to, each value with its origin.

    Args:
        recipe: Name of a recipe that ``list_recipes`` has.
        typed: Further ``KEY=VALUE`` words as on a command line.
        changed: Leave out values that equal their default.

    Raises:
        SftError: There is no such recipe, or a mistake in the words.
    """
    if recipe not in search_path().recipes:
        raise SftError(where=f"recipe={recipe}", problem="there is no such recipe", fix="list them: sft recipes")
    try:
        words = shlex.split(typed)
    except ValueError as error:
        raise SftError(where="settings", problem=f"a quote is not closed: {error}", fix="close the quote") from error
    if wrong := [word for word in words if "=" not in word or word.startswith(("-", "recipe="))]:
        problem = "not a setting: KEY=VALUE is needed, and the recipe is chosen above"
        raise SftError(where=wrong[0], problem=problem, fix=f"remove {wrong[0]}")
    overrides = [f"recipe={recipe}", *words]
    with _composing:
        yaml = show_config(overrides, changed=changed)
    return {"command": shlex.join(["sft", "train", *overrides]), "yaml": yaml}
