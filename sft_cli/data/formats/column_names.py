"""Match column names: exactly, in another letter case, by a common alias, or misspelt."""

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
"""Common aliases of these columns, the likeliest first: only to propose a ``columns`` map, never to choose one."""

MIN_SIMILARITY = 0.75
"""Similarity, from 0 to 1, at which a name counts as a misspelling of another."""


def find_columns(names: Iterable[str], mapped: Mapping[str, str], present: Iterable[str]) -> dict[str, str]:
    """Return the column of the file for each name of a format that the file has.

    A name that is not in ``mapped`` also matches in another letter case and with white space around it, unless two
    columns match.
    """
    columns = dict.fromkeys(present)
    matched = {name: column for name in names if (column := mapped.get(name, name)) in columns}
    unused = [column for column in columns if column not in matched.values()]
    if unused:
        for name in names:
            if name in matched or name in mapped:
                continue
            candidates = [column for column in unused if fold_name(column) == name]
            if len(candidates) == 1:
                matched[name] = candidates[0]
    return matched


def fold_name(column: str) -> str:
    """Return a column's name in lower case, without surrounding white space."""
    return column.strip().casefold()


def similar_column(name: str, present: Iterable[str]) -> str | None:
    """Return the column that is an alias or a misspelling of a format's name; None for no match."""
    columns = list(present)
    return by_alias(name, columns) or by_spelling(name, columns)


def by_alias(name: str, columns: Sequence[str]) -> str | None:
    """Return the column that is an alias of a format's name; None for no match."""
    return next((column for other in ALIASES.get(name, ()) for column in columns if fold_name(column) == other), None)


def by_spelling(name: str, columns: Sequence[str]) -> str | None:
    """Return the column whose name is nearly the format's; None for no match."""
    folded = {fold_name(column): column for column in columns}
    near = difflib.get_close_matches(name, folded, n=1, cutoff=MIN_SIMILARITY)
    return folded[near[0]] if near else None
