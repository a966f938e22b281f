"""From the path of a source to the files that are read, and the names their rows go by."""

import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft_cli.config.paths import BUILTIN, resolve
from sft_cli.data import columnar, readers
from sft_cli.data.problems import listing, nearest
from sft_cli.errors import SftError

READERS: Mapping[str, readers.Reader] = {
    ".json": readers.json_document,
    ".jsonl": readers.json_lines,
    ".ndjson": readers.json_lines,
    ".csv": readers.comma_separated,
    ".tsv": readers.tab_separated,
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
}
TEXT = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
COMPRESSED = (".gz", ".zst")
KINDS = f"{', '.join(READERS)}; the text formats also with {' or '.join(COMPRESSED)}"

SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "eval")
"""File and folder names that make a directory one of splits; so do shards named <split>-00000-of-00002."""

LONGEST_LABEL = 60
"""A longer path is named by its last part."""


@dataclass(frozen=True, slots=True)
class Part:
    """Files whose rows are numbered through.

    Attributes:
        label: Stands before the number in every row's ``where``.
        files: At least one, in reading order; several only for the shards of one Arrow data set.
        read: Reads one of them.
    """

    label: str
    files: tuple[Path, ...]
    read: readers.Reader


@dataclass(frozen=True, slots=True)
class Place:
    """Where a source says its rows are.

    Attributes:
        given: File, glob, directory or ``builtin:…``, as the user wrote it.
        split: The split that is wanted.
        named: Whether the user asked for that split by name, so that a path without splits is a mistake.
        key: The configuration key to name in an error.
    """

    given: str
    split: str
    named: bool
    key: str


def locate(place: Place) -> list[Part]:
    """The files behind a local path, in reading order."""
    path = Path(resolve(place.given))
    if path.is_dir():
        return _directory(path, place)
    if path.is_file():
        parts = [_part(path, place.given if len(place.given) <= LONGEST_LABEL else path.name, place)]
    elif glob.has_magic(str(path)):
        parts = _glob(path, place)
    else:
        raise missing(place)
    _refuse_split(place)
    return parts


def is_hub_id(given: str, *, certain: bool) -> bool:
    """Whether a path names a data set of the hub: ``owner/name``, and nothing local of that name.

    Below a directory that exists it is taken for a local path with a typing error, unless the user set something only
    hub data sets have (``certain``).
    """
    path = Path(resolve(given))
    shaped = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given) is not None and _suffix(path) not in READERS
    return shaped and not path.exists() and (certain or not path.parent.exists())


def missing(place: Place) -> SftError:
    """The error for a path that is not there, with what is."""
    path = Path(resolve(place.given))
    while not path.parent.exists():
        path = path.parent
    what = f"there is no {place.given!r}"
    if path != Path(resolve(place.given)):
        what += f": no directory {str(path)!r}"
    names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
    near = nearest(path.name, names)
    if near is not None:
        fix = f"did you mean {str(path.parent / near)!r}?"
    elif names and not place.given.startswith(BUILTIN):
        fix = f"{str(path.parent)!r} holds {listing(sorted(names))}"
    else:
        fix = "give a file, a glob, a directory or the owner/name of a hub data set"
    return SftError(where=place.key, problem=what, fix=fix)


def _directory(path: Path, place: Place) -> list[Part]:
    """A data set saved by ``datasets``, several such splits, or a folder of files."""
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text("utf-8"))["splits"]
        if place.split not in splits:
            raise _no_split(splits, place)
        return [_arrow(path / place.split, f"{_label(path, place)}[{place.split}]")]
    if _is_saved(path):
        _refuse_split(place)
        return [_arrow(path, _label(path, place))]
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and _suffix(file) in READERS]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise SftError(where=place.key, problem=f"{place.given!r} holds no data file", fix=f"known endings: {KINDS}")
    _refuse_two_kinds(files, place)
    files = _of_split(files, path, place)
    return [_part(file, file.relative_to(path).as_posix(), place) for file in files]


def _glob(path: Path, place: Place) -> list[Part]:
    """Every match that is a file or a saved data set, sorted."""
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    matches = [match for match in matches if match.is_file() or _is_saved(match)]
    if not matches:
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        names = sorted(os.listdir(base)) if base.is_dir() else []
        fix = f"{str(base)!r} holds {listing(names)}" if names else f"there is nothing in {str(base)!r}"
        raise SftError(where=place.key, problem=f"no file matches {place.given!r}", fix=fix)
    base = Path(os.path.commonpath([match.parent for match in matches]))
    labels = [match.relative_to(base).as_posix() for match in matches]
    pairs = zip(matches, labels, strict=True)
    return [_arrow(match, label) if match.is_dir() else _part(match, label, place) for match, label in pairs]


def _part(file: Path, label: str, place: Place) -> Part:
    """One file with its reader."""
    suffix = _suffix(file)
    if suffix not in READERS:
        problem = f"cannot tell what {file.name!r} holds from its ending"
        raise SftError(where=place.key, problem=problem, fix=f"known endings: {KINDS}")
    return Part(label, (file,), READERS[suffix])


def _is_saved(path: Path) -> bool:
    """Whether a directory is one data set as ``save_to_disk`` writes it."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _arrow(path: Path, label: str) -> Part:
    """A data set saved by ``datasets``: its shards in order."""
    state = json.loads((path / "state.json").read_text("utf-8"))
    return Part(label, tuple(path / entry["filename"] for entry in state["_data_files"]), columnar.arrow)


def _suffix(path: Path) -> str:
    """The ending that decides the reader; ``.gz`` and ``.zst`` count only on text formats."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return inner if inner in TEXT else inner + suffixes[-1]
    return suffixes[-1] if suffixes else ""


def _label(path: Path, place: Place) -> str:
    """The path as given, or its last part when it is long."""
    return place.given.rstrip("/") if len(place.given) <= LONGEST_LABEL else path.name


def _of_split(files: Sequence[Path], base: Path, place: Place) -> list[Path]:
    """The files of the wanted split; all of them when the directory has no splits."""
    splits = {file: _split_of(file.relative_to(base)) for file in files}
    found = sorted({split for split in splits.values() if split is not None})
    if not found:
        _refuse_split(place)
        return list(files)
    strays = [file for file, split in splits.items() if split is None]
    if strays:
        raise SftError(
            where=place.key,
            problem=f"{place.given!r} is split into {listing(found)}, but {strays[0].name!r} belongs to none of them",
            fix="move that file away, or name the files to read with a glob",
        )
    if place.split not in found:
        raise _no_split(found, place)
    return [file for file, split in splits.items() if split == place.split]


def _split_of(relative: Path) -> str | None:
    """The split a file belongs to by its own name or that of a folder above it."""
    for name in relative.parts:
        shard = re.match(r"(.+)-\d{5}-of-\d{5}\.", name)
        if shard:
            return shard[1]
        if name.split(".")[0] in SPLITS:
            return name.split(".")[0]
    return None


def _refuse_split(place: Place) -> None:
    """A split asked for where there are none would be ignored in silence."""
    if place.named:
        raise SftError(
            where=place.key,
            problem=f"split {place.split!r} is asked for, but {place.given!r} has no splits",
            fix="leave the split out, or name the held-out file as validation_path",
        )


def _no_split(splits: Sequence[str], place: Place) -> SftError:
    near = nearest(place.split, splits) or splits[0]
    return SftError(
        where=place.key,
        problem=f"{place.given!r} has no split {place.split!r}; it has {listing(splits)}",
        fix=f"choose one, for example {near}",
    )


def _refuse_two_kinds(files: Sequence[Path], place: Place) -> None:
    """The same rows often lie there once more as another kind of file."""
    kinds = sorted({_suffix(file) for file in files})
    if len(kinds) > 1:
        raise SftError(
            where=place.key,
            problem=f"{place.given!r} holds several kinds of files: {listing(kinds)}",
            fix=f"name those to read with a glob, for example {place.given.rstrip('/')}/*{kinds[0]}",
        )
