"""From the path of a source to the files that are read, and the names their rows go by."""

import glob
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sft_cli.config.paths import BUILTIN, resolve
from sft_cli.config.redaction import is_address
from sft_cli.data.row_errors import listing, nearest
from sft_cli.data.sources import remote
from sft_cli.data.sources.lines import File
from sft_cli.data.sources.read_options import PLAIN, How
from sft_cli.data.sources.remote_errors import Unreachable
from sft_cli.data.sources.select import (
    COLUMNAR,
    DOCUMENTS,
    LINES,
    READ,
    TABLES,
    Place,
    chosen,
    kind_of,
    no_lines,
    no_split,
    refuse_notes,
    refuse_split,
    suffix,
)
from sft_cli.data.sources.sniff import sniffed
from sft_cli.errors import SftError


@dataclass(frozen=True, slots=True)
class Part:
    """Files whose rows are numbered through.

    Attributes:
        label: Stands before the number in every row's ``where``: a name, or the path below the directory or the matches
            of the glob, however the path to them was typed.
        files: At least one, paths absolute, in reading order; several only for the shards of one Arrow data set.
        kind: The ending that decides their reader.
        how: How they are read.
    """

    label: str
    files: tuple[File, ...]
    kind: str
    how: How = PLAIN


def locate(place: Place, *, stored: bool = True) -> list[Part]:
    """The files behind a path, in reading order; those on a server are downloaded, or (not ``stored``) left there."""
    parts = _found(place, stored)
    parts = [_of_lines(part, place) for part in parts] if place.lines else parts
    refuse_idle(place, {part.kind for part in parts})
    return parts


def refuse_idle(place: Place, kinds: set[str] | None) -> None:
    """Refuse keys that say how files are read and would have no effect on these kinds; None is a hub data set."""
    if not place.key.endswith(".path"):
        return  # held-out rows of another kind than the training rows
    idle = {
        "delimiter": place.how.delimiter is not None and not (kinds and kinds & set(TABLES)),
        "encoding": place.how.encoding is not None and not (kinds and kinds - set(COLUMNAR)),
    }
    for name, no_effect in idle.items():
        if no_effect:
            what = "a hub data set" if kinds is None else f"{' and '.join(sorted(kinds))} files"
            key = f"{place.how.source}.{name}"
            raise SftError(
                where=key, problem=f"it would have no effect: it is not read for {what}", fix=f"leave {key} out"
            )


def _of_lines(part: Part, place: Place) -> Part:
    """A text file of which each line is a row."""
    if part.kind not in DOCUMENTS:
        raise no_lines(part.label, place)
    return replace(part, kind=LINES)


def _found(place: Place, stored: bool) -> list[Part]:
    """The files behind a path, each of the kind its ending says."""
    if is_address(place.given):
        return _remote(place, stored)
    path = Path(resolve(place.given))
    if path.is_dir():
        return _directory(path, place)
    if path.is_file():
        part = _part(path, path.name, place, alone=True)
        if part.kind != ".json":
            refuse_split(place)
        return [part]
    if glob.has_magic(str(path)):
        parts = _glob(path, place)
    else:
        raise missing(place)
    refuse_split(place)
    return parts


def is_hub_id(given: str, *, certain: bool) -> bool:
    """Whether a path names a data set of the hub: ``owner/name``, and nothing local of that name.

    Below a directory that exists it is taken for a local path with a typing error, unless the user set something only
    hub data sets have (``certain``).
    """
    path = Path(resolve(given))
    shaped = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given) is not None and suffix(path) not in READ
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
    name = os.path.basename(os.path.abspath(path))
    if (path / "dataset_dict.json").is_file():
        splits = _described(path / "dataset_dict.json", "splits")
        if place.split not in splits or Path(place.split).name != place.split:
            raise no_split(splits, place)
        return [_arrow(path / place.split, f"{name}[{place.split}]")]
    if _is_saved(path):
        refuse_split(place)
        return [_arrow(path, name)]
    files = chosen([file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()], place)
    return [_part(path / file, file.as_posix(), place) for file in files]


def _remote(place: Place, stored: bool) -> list[Part]:
    """The files behind an address. Without a network, one that was downloaded before."""
    try:
        shape, files = remote.find(place.given, place.key)
    except Unreachable:
        kept = remote.downloaded_before(place.given) if stored else None
        if kept is None:
            raise
        refuse_split(place)
        return [_part(kept, kept.name, place)]
    base = PurePosixPath(os.path.commonpath([PurePosixPath(file.path).parent for file in files])) if files else None
    labels = {PurePosixPath(file.path).relative_to(base): file for file in files} if base else {}
    if shape == "directory":
        labels = {label: labels[label] for label in chosen(list(labels), place)}
    else:
        refuse_split(place)
        refuse_notes(list(labels), place)
    if not labels:
        problem = f"no file matches {remote.show(place.given)!r}"
        raise SftError(where=place.key, problem=problem, fix="check the address; ** matches folders in folders")
    found = []
    for label, file in labels.items():
        kind = kind_of(label, place)
        here = remote.download(file) if stored else file
        how = replace(place.how, named=False)
        kind = sniffed(kind, here, label.as_posix(), how) if isinstance(here, Path) else kind
        found.append(Part(label.as_posix(), (here,), kind, how))
    return found


def _glob(path: Path, place: Place) -> list[Part]:
    """Every match that is a file or a saved data set, sorted."""
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    matches = [match for match in matches if match.is_file() or _is_saved(match)]
    if not matches:
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        names = sorted(os.listdir(base)) if base.is_dir() else []
        fix = f"{str(base)!r} holds {listing(names)}" if names else f"there is nothing in {str(base)!r}"
        raise SftError(where=place.key, problem=f"no file matches {place.given!r}", fix=fix)
    refuse_notes(matches, place)
    base = Path(os.path.commonpath([match.parent for match in matches]))
    labels = [match.relative_to(base).as_posix() for match in matches]
    pairs = zip(matches, labels, strict=True)
    return [_arrow(match, label) if match.is_dir() else _part(match, label, place) for match, label in pairs]


def _part(file: Path, label: str, place: Place, alone: bool = False) -> Part:
    """One file with its kind; a file that is all there is may hold the split that was asked for."""
    how = place.how if alone else replace(place.how, named=False)
    return Part(label, (file.absolute(),), sniffed(kind_of(file, place), file, label, how), how)


def _is_saved(path: Path) -> bool:
    """Whether a directory is one data set as ``save_to_disk`` writes it."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _arrow(path: Path, label: str) -> Part:
    """A data set saved by ``datasets``: its shards in order."""
    names = [
        entry.get("filename") if isinstance(entry, dict) else None
        for entry in _described(path / "state.json", "_data_files")
    ]
    if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise _not_saved(path / "state.json", "its _data_files are not names of files beside it")
    return Part(label, tuple(path.absolute() / str(name) for name in names), ".arrow")


def _described(file: Path, key: str) -> list[Any]:
    """A list in the JSON that ``datasets`` puts beside its files."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _not_saved(file, "it is not JSON") from error
    if not isinstance(found, dict) or not isinstance(found.get(key), list):
        raise _not_saved(file, f"it has no list {key}")
    return found[key]


def _not_saved(file: Path, problem: str) -> SftError:
    return SftError(where=str(file), problem=problem, fix="save the data set again with save_to_disk")
