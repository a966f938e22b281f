"""Shell completion of config keys, groups, recipes and run directories, without importing torch or Hydra."""

import io
import os
import shlex
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import redirect_stdout
from enum import Enum
from typing import Any, get_args

VARIABLE = "_SFT_COMPLETE"
"""Environment variable through which the shell requests completions."""
_EXAMPLE_NAME = "local"
"""Name of a source of rows before one is typed."""


def complete_override(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the ``KEY=VALUE`` words that start with the incomplete one, each with its help.

    A key without a value ends in ``=``. It is never the only candidate, so that the shell adds no space after it.
    """
    key, equals, _ = incomplete.partition("=")
    if equals:
        yield from ((f"{key}={value}", note) for value, note in _values(key))
        return
    matching = [(name, note) for name, note in _names(incomplete) if name.startswith(incomplete)]
    yield from ((f"{name}=", note) for name, note in matching)
    if len(matching) == 1:
        name = matching[0][0]
        yield from ((f"{name}={value}", note) for value, note in _values(name))


def complete_run(incomplete: str) -> Iterator[str]:
    """Yield the newest run directories."""
    from sft_cli.run_dir import latest_runs

    yield from (path for path in latest_runs(number=50) if path.startswith(incomplete))


def complete_recipe(incomplete: str) -> Iterator[str]:
    """Yield the names of recipes."""
    from sft_cli.config.files.search_path import search_path

    yield from (name for name in search_path().recipes if name.startswith(incomplete))


def complete_gpu(incomplete: str) -> Iterator[str]:
    """Yield the names of GPUs."""
    from sft_cli.check.gpus import GPUS

    yield from (name for name in GPUS if name.startswith(incomplete))


def _names(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield every group and key, with the name that the incomplete word contains in place of ``<name>``."""
    from sft_cli.config.files.search_path import GROUPS
    from sft_cli.config.keys.typos import format_typed
    from sft_cli.config.keys.valid_keys import ANY_NAME, KEYS
    from sft_cli.config.validate import to_plain

    yield "recipe", "a recipe by name, or a YAML file"
    yield from ((group, f"an option of the group {group}") for group in GROUPS)
    for name, key in KEYS.items():
        if "[]" in name:
            continue  # an item of a list can only be written in a file
        before, _, after = name.partition(ANY_NAME)
        if after:
            typed = incomplete.removeprefix(before).partition(".")[0] if incomplete.startswith(before) else ""
            name = f"{before}{typed or _EXAMPLE_NAME}{after}"
        yield name, f"default {format_typed(to_plain(key.default))}"


def _values(key: str) -> Iterator[tuple[str, str]]:
    """Yield values of a key or group: its options or choices, else its default."""
    from sft_cli.config.files.search_path import GROUPS, search_path
    from sft_cli.config.keys.typos import format_typed
    from sft_cli.config.keys.valid_keys import find_key
    from sft_cli.config.validate import to_plain

    if key == "recipe":
        yield from ((name, "recipe") for name in search_path().recipes)
    elif key in GROUPS:
        yield from ((name, f"option of {key}") for name in search_path().options[key])
    elif (known := find_key(key)) is not None:
        values = dict.fromkeys([format_typed(to_plain(known.default)), *_choices(known.kind)])
        yield from ((value, "default" if place == 0 else "") for place, value in enumerate(values))


def _choices(kind: Any) -> Iterator[str]:
    """Yield the values of a boolean or enum type."""
    for part in get_args(kind) or (kind,):
        if part is bool:
            yield from ("true", "false")
        elif isinstance(part, type) and issubclass(part, Enum):
            yield from (str(member.value) for member in part)


def answer_bash(complete: Any, environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete for bash, which splits words at ``=`` and completes only the part after it.

    Args:
        complete: Function that prints the completions requested in the environment, and exits.
        environment: Environment with bash's words, which are joined before ``complete`` is called.

    Raises:
        SystemExit: ``complete`` has exited.
    """
    words, place, split = joined(_words(environment), int(environment["COMP_CWORD"]))
    environment.update(COMP_WORDS=shlex.join(words), COMP_CWORD=str(place))
    lines = io.StringIO()
    try:
        with redirect_stdout(lines):
            complete()
    finally:
        prefix = words[place].rpartition("=")[0] + "=" if split else ""
        print(*(line.removeprefix(prefix) for line in lines.getvalue().splitlines()), sep="\n")


def _words(environment: Mapping[str, str]) -> list[str]:
    """Return the words as bash split them."""
    try:
        return shlex.split(environment["COMP_WORDS"])
    except ValueError:  # a quote that is still open
        return environment["COMP_WORDS"].split()


def joined(words: Sequence[str], place: int) -> tuple[list[str], int, bool]:
    """Return the words with ``key``, ``=``, ``value`` joined, the new position of a word, and whether it was split."""
    whole_words: list[str] = []
    new_place, split, glue = place, False, False
    for number, word in enumerate([*words, ""] if place == len(words) else words):
        if (word == "=" and whole_words) or (glue and word):
            whole_words[-1] += word
            glue = word == "="
            if number == place:
                new_place, split = len(whole_words) - 1, True
            continue
        glue = False
        whole_words.append(word)
        if number == place:
            new_place = len(whole_words) - 1
    return whole_words, new_place, split
