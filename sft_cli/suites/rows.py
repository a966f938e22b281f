"""Read the rows of a suite: a file, a file of ``eval.data_dir``, or a data set on the hub."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sft_cli.config.schema.data import SourceConfig
from sft_cli.config.schema.suites import SuiteConfig
from sft_cli.data.sources.source_rows import BadRow, read_source
from sft_cli.errors import SftError
from sft_cli.types import Row
from sft_cli.utils.hashing import json_digest

SHIPPED = Path(__file__).parent / "shipped"
"""Directory of the items of the package's own suites."""


@dataclass(frozen=True, slots=True)
class SuiteRows:
    """The rows of a suite.

    Attributes:
        rows: All rows, in the order of the file.
        fingerprint: Digest of the rows' values, 64 hexadecimal digits, whatever the kind and name of the file.
        origin: The file, or the hub data set, for messages.
    """

    rows: tuple[Row, ...]
    fingerprint: str
    origin: str


def read_suite_rows(name: str, suite: SuiteConfig, data_dir: str | None) -> SuiteRows:
    """Read all rows of a suite.

    Args:
        name: Name of the suite.
        suite: Its definition.
        data_dir: ``eval.data_dir``.

    Raises:
        SftError: There is no file of items, or a row cannot be read.
    """
    source = _source(name, suite, data_dir)
    rows = _read(name, source)
    if suite.answers is not None:
        assert source.path is not None
        file = Path(source.path).parent / suite.answers
        rows = _with_answers(name, rows, file)
    if not rows:
        raise SftError(
            where=f"eval.suites.{name}",
            problem=f"{source.path} holds no rows",
            fix=f"eval.suites.{name}.path=FILE with the items",
        )
    return SuiteRows(tuple(rows), json_digest([dict(row.values) for row in rows]), str(source.path))


def read_shot_rows(name: str, suite: SuiteConfig, data_dir: str | None) -> list[Row] | None:
    """Return the rows that solved examples are chosen from; None: the suite's own rows."""
    shots, key = suite.shots, f"eval.suites.{name}.shots"
    if shots.path is not None:
        inside = Path(data_dir or "") / shots.path
        return _read(name, SourceConfig(path=str(inside) if inside.is_file() else shots.path), f"{key}.path")
    if shots.split is None:
        return None
    if suite.path is not None or data_dir is not None or suite.hub is None:
        raise SftError(
            where=f"{key}.path",
            problem=f"the {shots.count} examples come from the split {shots.split!r}, of which there is no file",
            fix=f"set {key}.path=FILE, or {key}.split=null to use other items of the suite",
        )
    return _read(name, replace(_hub_source(suite), split=shots.split), f"{key}.split")


def read_variant_rows(name: str, file: str, key: str, data_dir: str | None) -> list[Row]:
    """Return the rows of a file of variants: a path, or the name of a file in ``eval.data_dir``."""
    inside = Path(data_dir or "") / file
    return _read(name, SourceConfig(path=str(inside) if inside.is_file() else file), key)


def _source(name: str, suite: SuiteConfig, data_dir: str | None) -> SourceConfig:
    """Return the source of a suite's rows."""
    key = f"eval.suites.{name}"
    if suite.path is not None and Path(suite.path).is_file():
        return SourceConfig(path=suite.path)
    if suite.path is not None:
        return SourceConfig(path=suite.path, split=suite.split, name=suite.subset, revision=suite.revision)
    shipped = shipped_file(suite)
    if data_dir is not None and suite.file is not None:
        file = Path(data_dir) / suite.file
        if not file.is_file() and shipped is None:
            fix = f"{key}.path=FILE, or write the items there ({suite.source})"
            raise SftError(where=key, problem=f"there is no file {file}", fix=fix)
        return SourceConfig(path=str(file if file.is_file() else shipped))
    if shipped is not None:
        return SourceConfig(path=str(shipped))
    if suite.hub is None:
        choices = [f"{key}.path=FILE", *([f"eval.data_dir=DIR, with the file {suite.file}"] if suite.file else [])]
        raise SftError(where=key, problem="no file of items is named", fix="\n".join(choices))
    return _hub_source(suite)


def shipped_file(suite: SuiteConfig) -> Path | None:
    """Return the file of items of the package; None if the suite's items are elsewhere."""
    file = SHIPPED / (suite.file or "")
    return file if file.is_file() else None


def _hub_source(suite: SuiteConfig) -> SourceConfig:
    return SourceConfig(path=suite.hub, name=suite.subset, split=suite.split, revision=suite.revision)


def _read(name: str, source: SourceConfig, key: str = "") -> list[Row]:
    """Read all rows of a source; errors name the key of the suite."""
    key = key or f"eval.suites.{name}.path"
    rows = []
    with _keys_of_suite(name, key):
        for row in read_source(source, name, "train"):
            if isinstance(row, BadRow):
                raise row.error
            rows.append(row)
    return rows


@contextmanager
def _keys_of_suite(name: str, key: str) -> Iterator[None]:
    """Let the errors of a source name the keys of the suite."""
    try:
        yield
    except SftError as error:
        # The readers know a source as an entry of data.mix.
        keys = {f"data.mix.{name}.path": key, f"data.mix.{name}": f"eval.suites.{name}"}
        texts = [error.where, error.problem, error.fix]
        for old, new in keys.items():
            texts = [text.replace(old, new) for text in texts]
        raise SftError(where=texts[0], problem=texts[1], fix=texts[2]) from error


def _with_answers(name: str, rows: Sequence[Row], file: Path) -> list[Row]:
    """Return the rows with the columns of those of a second file that have the same id."""
    key = f"eval.suites.{name}.answers"
    if not file.is_file():
        fix = f"put it into the directory of the items, or set {key}={shlex.quote('NAME')}"
        raise SftError(where=key, problem=f"there is no file {file}", fix=fix)
    answers: dict[Any, Mapping[str, Any]] = {
        row.values.get("id"): row.values for row in _read(name, SourceConfig(path=str(file)), key)
    }
    missing = next((row for row in rows if row.values.get("id") not in answers), None)
    if missing is not None:
        raise SftError(
            where=missing.where,
            problem=f"{file.name} has no row with the id {missing.values.get('id')!r}",
            fix=f"complete {file}, or name the file that belongs to the items: {key}=NAME",
        )
    return [replace(row, values={**answers[row.values["id"]], **row.values}) for row in rows]
