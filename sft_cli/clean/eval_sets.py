"""Read the prompts of evaluation sets from local files."""

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
"""Columns that are tried for the prompt if none is configured."""
KEY = "clean.contamination"


class EvalPrompt(NamedTuple):
    """One prompt of an evaluation set.

    Attributes:
        name: Name of the evaluation set.
        where: Location of its row.
        text: The prompt.
    """

    name: str
    where: str
    text: str


def eval_prompts(config: ContaminationConfig) -> list[EvalPrompt]:
    """Return the prompts of all sets, in the order of the config and of the files.

    A column of several texts (the turns of MT-Bench) gives one prompt each; a column of messages gives those of the
    user. The row's ``input``, if any, is appended to ``instruction`` unless a column is configured.

    Raises:
        SftError: A file or a column is missing, or a row has no prompt.
    """
    return [
        EvalPrompt(name, where, text)
        for name in config.against
        for where, values in _rows(config, name)
        for text in _texts(config, name, values, where)
    ]


def eval_set_files(config: ContaminationConfig, name: str) -> list[Path]:
    """Return the files of one set."""
    return list(_files(_file_groups(config, name)))


def _file_groups(config: ContaminationConfig, name: str) -> list[FileGroup]:
    """Return the located files of one set."""
    return locate_files(SourceLocation(config.against[name], "test", named=False, key=f"{KEY}.against.{name}"))


def _files(groups: Sequence[FileGroup]) -> Iterator[Path]:
    """Yield the paths of located files."""
    for file in (file for group in groups for file in group.files):
        assert isinstance(file, Path), "locate_files downloads remote files"
        yield file


def _rows(config: ContaminationConfig, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield location and columns of every row of a set; raise the error of a broken row."""
    groups = _file_groups(config, name)
    for file in _files(groups):
        file_state.record_stamp(file)
    for piece in slice_files(groups):
        for row in read_slice(piece, name):
            if isinstance(row, BadRow):
                raise row.error
            yield row.where, row.values


def _column(config: ContaminationConfig, name: str, values: Mapping[str, Any], where: str) -> str:
    """Return the column of the prompt in a row.

    Args:
        config: The sets and their columns.
        name: Name of the set.
        values: The row.
        where: Its location.
    """
    configured = config.columns.get(name)
    present = [column for column in ((configured,) if configured is not None else COLUMNS) if column in values]
    if present:
        return present[0]
    key = f"{KEY}.columns.{name}"
    if configured is None:
        problem = f"the row has none of the columns {format_list(COLUMNS)}; it has {format_list(values)}"
        raise SftError(where=where, problem=problem, fix=f"{key}=COLUMN names the column of the prompt")
    near = closest_name(configured, values)
    hint = f"did you mean {key}={near}? " if near is not None else f"{key}=COLUMN, or remove {key}; "
    raise SftError(
        where=where, problem=f"the row has no column {configured!r}", fix=f"{hint}columns: {format_list(values)}"
    )


def _texts(config: ContaminationConfig, name: str, values: Mapping[str, Any], where: str) -> list[str]:
    """Return the prompts of a row; raise if there is none.

    Args:
        config: The sets and their columns.
        name: Name of the set.
        values: The row.
        where: Its location.
    """
    column = _column(config, name, values, where)
    texts = [text for text in _flatten(values[column]) if text.strip()]
    if not texts:
        fix = f"remove the row, or set another column: {KEY}.columns.{name}=COLUMN"
        raise SftError(where=where, problem=f"the column {column} of the row holds no text", fix=fix)
    input_text = values.get("input")
    if column == "instruction" and name not in config.columns and isinstance(input_text, str) and input_text.strip():
        return [f"{texts[0]}\n{input_text}", *texts[1:]]
    return texts


def _flatten(value: Any) -> Iterator[str]:
    """Yield the texts of a value: itself, those of a list, the content of a user's message."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _flatten(element)
    elif isinstance(value, Mapping) and value.get("role", "user") == "user":
        yield from _flatten(value.get("content"))
