"""Do the keys that say how a source's rows are read fit together?"""

import re
from collections.abc import Iterator

from sft_cli.config.overrides.quoting import override
from sft_cli.config.schema.data import RANKED, DataConfig, SourceConfig
from sft_cli.config.validate import Mistake

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ROLES = ("system", "user", "assistant", "tool", "tool_call")
"""What a source's ``roles`` may map to."""
_OUR_TAGS = ("repaired", "placeholders")


def source_rules(data: DataConfig) -> Iterator[Mistake]:
    """What is wrong with the rows' keys of any source."""
    for name, source in data.mix.items():
        yield from _rules(source, f"data.mix.{name}")


def _rules(source: SourceConfig, key: str) -> Iterator[Mistake]:
    if source.tree.paths not in ("best", "all") and not RANKED.fullmatch(source.tree.paths):
        yield Mistake(
            f"{key}.tree.paths",
            f"{key}.tree.paths is {source.tree.paths!r}; it must be best, all or ranked(k) with a number k from 1",
            f"write a value such as {key}.tree.paths=ranked(2)",
        )
    if source.stream and source.max_rows is None:
        yield Mistake(
            f"{key}.max_rows",
            f"{key}.stream is true, but {key}.max_rows is not set: a stream is read up to a number of rows",
            f"set {key}.max_rows=100000, or {key}.stream=false",
            clash=f"{key}.stream",
        )
    for variable in source.variables:
        if not _IDENTIFIER.fullmatch(variable):
            yield Mistake(
                f"{key}.variables",
                f"{key}.variables names {variable!r}; a placeholder consists of letters, digits and _",
                "rename it, in the rows as well",
            )
    for tag in source.tags:
        if tag in _OUR_TAGS:
            yield Mistake(
                f"{key}.tags", f"{key}.tags.{tag} is a tag that preparation itself sets", "choose another name"
            )
    for given, role in source.roles.items():
        if role not in ROLES:
            yield Mistake(
                f"{key}.roles",
                f"{key}.roles.{given} is {role!r}; it must be one of {', '.join(ROLES)}",
                f"write the file's name first and the role second, such as '{key}.roles={{bot: assistant}}'",
            )
    yield from _reading(source, key)
    if not source.format:
        yield Mistake(f"{key}.format", f"{key}.format is empty", f"write {key}.format=auto, or leave it out")
    elif not isinstance(source.format, str) and source.columns:
        yield Mistake(
            f"{key}.columns",
            f"{key}.columns would have no effect: the texts of {key}.format name the columns themselves",
            "leave columns out",
            clash=f"{key}.format",
        )


def _reading(source: SourceConfig, key: str) -> Iterator[Mistake]:
    """What is wrong with the keys that say how files are read, and which columns are left out."""
    if source.delimiter not in (None, "tab", "\\t") and (len(source.delimiter) != 1 or source.delimiter in '"\r\n'):
        yield Mistake(
            f"{key}.delimiter",
            f"{key}.delimiter is {source.delimiter!r}; it must be one character, or tab",
            f"write a value such as {override(f'{key}.delimiter', ';')}, or {key}.delimiter=tab",
        )
    if source.encoding is not None and not _is_encoding(source.encoding):
        yield Mistake(
            f"{key}.encoding",
            f"{key}.encoding is {source.encoding!r}, which Python does not know as an encoding of text",
            f"write a value such as {key}.encoding=cp1252, or utf-16",
        )
    read = {"columns": source.columns, "tags": source.tags, "scores": source.scores}
    for field, columns in read.items():
        for name, column in columns.items():
            if column in source.ignore:
                left = [other for other in source.ignore if other != column]
                yield Mistake(
                    f"{key}.ignore",
                    f"{key}.ignore leaves out {column!r}, and {key}.{field}.{name} reads it",
                    f"{override(f'{key}.ignore', left)}, or take {key}.{field}.{name} out",
                    clash=f"{key}.{field}",
                )
    for column in source.ignore:
        if source.ignore.count(column) > 1:
            left = list(dict.fromkeys(source.ignore))
            problem = f"{key}.ignore names {column!r} twice"
            yield Mistake(f"{key}.ignore", problem, override(f"{key}.ignore", left))
            break


def _is_encoding(name: str) -> bool:
    """Whether Python reads and writes text in an encoding of this name."""
    try:
        return "a".encode(name).decode(name) == "a"
    except (LookupError, UnicodeError, ValueError):
        return False
