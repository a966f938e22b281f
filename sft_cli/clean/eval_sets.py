"""The prompts of evaluation sets, read from local files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sft_cli.config.schema.clean import ContaminationConfig
from sft_cli.data.row_errors import format_list
from sft_cli.data.sources import file_state
from sft_cli.data.sources.locate import FileGroup, locate_files
from sft_cli.data.sources.select import SourceLocation
from sft_cli.data.sources.slices import BadRow, read_slice, slice_files
from sft_cli.errors import SftError
from sft_cli.utils.similar import closest_name

COLUMNS = ("question", "prompt", "instruction", "text")
"""Where a prompt is looked for when no column is named."""
KEY = "clean.contamination"


class EvalPrompt(NamedTuple):
    """One prompt of an evaluation set.

    Attributes:
        name: The set's.
        where: File and line or element.
        text: What is asked.
    """

    name: str
    where: str
    text: str


def eval_prompts(config: ContaminationConfig) -> list[EvalPrompt]:
    """Every prompt of every set, in the order of the config and of the files.

    A column that holds several texts (the turns of MT-Bench) gives as many prompts; of messages those of the user.
    ``instruction`` is completed by the row's ``input``, if it has one and no column is named.

    Raises:
        SftError: A file or a column is missing, or a row holds no prompt.
    """
    return [
        EvalPrompt(name, where, text)
        for name in config.against
        for where, values in _rows(config, name)
        for text in _texts(config, name, values, where)
    ]


def eval_set_files(config: ContaminationConfig, name: str) -> list[Path]:
    """The files that one set is read from."""
    return list(_files(_file_groups(config, name)))


def _file_groups(config: ContaminationConfig, name: str) -> list[FileGroup]:
    return locate_files(SourceLocation(config.against[name], "test", named=False, key=f"{KEY}.against.{name}"))


def _files(groups: Sequence[FileGroup]) -> Iterator[Path]:
    for file in (file for group in groups for file in group.files):
        assert isinstance(file, Path), "files on a server are downloaded by locate"
        yield file


def _rows(config: ContaminationConfig, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The place and the columns of every row of a set; a broken one raises."""
    groups = _file_groups(config, name)
    for file in _files(groups):
        file_state.record_stamp(file)
    for piece in slice_files(groups):
        for row in read_slice(piece, name):
            if isinstance(row, BadRow):
                raise row.error
            yield row.where, row.values


def _column(config: ContaminationConfig, name: str, values: Mapping[str, Any], where: str) -> str:
    """The column that holds the prompt of this row."""
    named = config.columns.get(name)
    found = [column for column in ((named,) if named is not None else COLUMNS) if column in values]
    if found:
        return found[0]
    key = f"{KEY}.columns.{name}"
    if named is None:
        problem = f"it has none of the columns {format_list(COLUMNS)}, but {format_list(values)}"
        raise SftError(where=where, problem=problem, fix=f"name the one that holds the prompt: {key}=COLUMN")
    near = closest_name(named, values)
    hint = f"did you mean {key}={near}? " if near is not None else ""
    raise SftError(where=where, problem=f"it has no column {named!r}", fix=f"{hint}columns: {format_list(values)}")


def _texts(config: ContaminationConfig, name: str, values: Mapping[str, Any], where: str) -> list[str]:
    """The prompts of a row; none at all raises."""
    column = _column(config, name, values, where)
    found = [text for text in _flatten(values[column]) if text.strip()]
    if not found:
        fix = f"remove the row, or name another column: {KEY}.columns.{name}=COLUMN"
        raise SftError(where=where, problem=f"its {column} holds no text", fix=fix)
    more = values.get("input")
    if column == "instruction" and name not in config.columns and isinstance(more, str) and more.strip():
        return [f"{found[0]}\n{more}", *found[1:]]
    return found


def _flatten(value: Any) -> Iterator[str]:
    """The texts of a value: itself, those of a list, the content of a user's message."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _flatten(element)
    elif isinstance(value, Mapping) and value.get("role", "user") == "user":
        yield from _flatten(value.get("content"))
