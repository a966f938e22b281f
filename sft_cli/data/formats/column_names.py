"""What columns are called: names as they are, in other letter case, by another word for the same, or misspelt."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

ALIASES: Mapping[str, tuple[str, ...]] = {
    "messages": ("message", "dialogue", "dialog", "chat", "turns"),
    "conversations": ("dialogs",),
    "output": ("response", "answer", "completion", "target"),
    "input": ("context",),
    "prompt": ("question", "query", "problem", "instruction", "input", "inputs"),
    "completion": ("response", "solution", "output", "answer", "reply", "target", "targets"),
    "system": ("system_prompt", "system_message", "sys_prompt", "sys"),
    "tools": ("functions", "tool_schemas", "available_tools"),
    "text": ("body", "article"),
}
"""What files call these columns, the likeliest first: only to propose a ``columns`` map, never to guess one."""

MIN_SIMILARITY = 0.75
"""How alike a mistyped name is to the one it stands for, from 0 to 1."""


def find_columns(names: Iterable[str], mapped: Mapping[str, str], present: Iterable[str]) -> dict[str, str]:
    """The column of each of a format's names that is there.

    A name that ``mapped`` does not hold is also found in other letter case and with white space around it, unless two
    columns could be meant.
    """
    there = dict.fromkeys(present)
    found = {name: column for name in names if (column := mapped.get(name, name)) in there}
    left = [column for column in there if column not in found.values()]
    if left:
        for name in names:
            if name in found or name in mapped:
                continue
            alike = [column for column in left if fold_name(column) == name]
            if len(alike) == 1:
                found[name] = alike[0]
    return found


def fold_name(column: str) -> str:
    """A column's name in small letters, without white space around it."""
    return column.strip().casefold()


def similar_column(name: str, present: Iterable[str]) -> str | None:
    """The column that stands for a format's name in files that call it otherwise or misspell it; None for none."""
    left = list(present)
    return by_alias(name, left) or by_spelling(name, left)


def by_alias(name: str, left: Sequence[str]) -> str | None:
    """A column that has another name for the same."""
    return next((column for other in ALIASES.get(name, ()) for column in left if fold_name(column) == other), None)


def by_spelling(name: str, left: Sequence[str]) -> str | None:
    """A column whose name is nearly the format's."""
    spelled = {fold_name(column): column for column in left}
    near = difflib.get_close_matches(name, spelled, n=1, cutoff=MIN_SIMILARITY)
    return spelled[near[0]] if near else None
