"""Read a prepared directory, which ``sft prepare`` writes. It needs no torch.

DIR/train, DIR/validation   Arrow rows that ``datasets.load_from_disk(DIR)`` opens: input_ids, labels, where, source
DIR/stages/                 the stages of an epoch as numbers of training examples, repeats included
DIR/manifest.json           fingerprint, counts, tokens, reasons, length quantiles
DIR/ledger.jsonl            one line for each input row with its outcome
DIR/dropped.jsonl           some of the dropped rows, a few for each reason
DIR/tokenizer/              the tokenizer with the chat template that a server will use
DIR/golden.json             prompts, and the ids that a server must produce for them
DIR/report.html             a page that shows all of this
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.paths import cache_home
from sft_cli.config.schema.data import Overflow
from sft_cli.data.mixing import curriculum
from sft_cli.data.mixing.curriculum import Stage
from sft_cli.data.prepared_writer import IGNORE_INDEX, LIST_DTYPES
from sft_cli.data.row_errors import damaged_data_fix
from sft_cli.errors import SftError

FILE_NAMES = {
    "train", "validation", "dataset_dict.json", "stages", "manifest.json", "ledger.jsonl", "tokenizer", "golden.json",
    "report.html", "dropped.jsonl",
}  # fmt: skip
"""The files of a prepared directory."""
PREFIX_TOKENS = 8
"""Examples of one unrolled row have at least this many first tokens in common."""


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One example: ``input_ids`` ``(length,)`` int64 and ``weights`` ``(length,)`` float32."""

    input_ids: NDArray[np.int64]
    weights: NDArray[np.float32]


class Split:
    """The memory-mapped examples of one split.

    Attributes:
        lengths: ``(examples,)``: the length of each example in tokens.
        truncated_at: The length to which longer examples were truncated; None if they were not.
    """

    def __init__(self, directory: Path, truncated_at: int | None = None) -> None:
        """Open a directory that ``datasets`` can read; SftError if it cannot be read."""
        self.truncated_at = truncated_at
        self._batches = _batches(directory)
        self._views: dict[tuple[int, str], tuple[NDArray[np.int32], NDArray[Any]]] = {}
        self._weighted = bool(self._batches) and "loss_weights" in self._batches[0].schema.names
        lengths = [np.diff(self._view(number, "input_ids")[0]) for number in range(len(self._batches))]
        self.lengths: NDArray[np.int64] = np.concatenate([np.zeros(0, np.int32), *lengths]).astype(np.int64)
        self._ends = np.cumsum([len(part) for part in lengths], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, index: int) -> TokenizedExample:
        """Return the ids and loss weights of one example."""
        number, row = self._locate(index)
        trained = self._list(number, row, "labels") != IGNORE_INDEX
        weights = self._list(number, row, "loss_weights") * trained if self._weighted else trained
        return TokenizedExample(self._list(number, row, "input_ids").astype(np.int64), weights.astype(np.float32))

    def prompt_lengths(self) -> NDArray[np.int64]:
        """``(examples,)``: the number of tokens before the first trained one; the whole length if none is trained."""
        found = [np.zeros(0, np.int64)]
        for number in range(len(self._batches)):
            offsets, labels = self._view(number, "labels")
            ends = offsets.astype(np.int64)
            trained = np.append(np.flatnonzero(labels != IGNORE_INDEX), len(labels))
            first = trained[np.searchsorted(trained, ends[:-1])]
            found.append(np.minimum(first, ends[1:]) - ends[:-1])
        return np.concatenate(found)

    def largest_id(self) -> int:
        """Return the largest token id of the split; -1 if it is empty."""
        views = (self._view(number, "input_ids") for number in range(len(self._batches)))
        return max((int(ids[ends[0] : ends[-1]].max()) for ends, ids in views if ends[-1] > ends[0]), default=-1)

    def present(self, ids: Sequence[int]) -> set[int]:
        """Return those of the token ids that occur in an example."""
        views = (self._view(number, "input_ids") for number in range(len(self._batches)))
        return {int(id) for ends, found in views for id in np.intersect1d(found[ends[0] : ends[-1]], ids)}

    def where(self, index: int) -> str:
        """Return the row that an example was made from."""
        number, row = self._locate(index)
        return str(self._batches[number].column("where")[row].as_py())

    def unrolled(self) -> NDArray[np.bool_]:
        """``(examples,)``: whether an example is another answer of the previous one's row: same row, same first tokens.

        The pieces of a long document come from one row too, but begin differently.
        """
        import pyarrow.compute as compute

        found = np.zeros(len(self), np.bool_)
        before = None
        for number, batch in enumerate(self._batches):
            first = int(self._ends[number]) - batch.num_rows
            where = batch.column("where")
            if before is not None and batch.num_rows:
                found[first] = where[0].as_py() == before
            if batch.num_rows > 1:
                same = compute.equal(where.slice(1), where.slice(0, batch.num_rows - 1))  # pyright: ignore[reportAttributeAccessIssue]
                found[first + 1 : first + batch.num_rows] = same.to_pylist()
            before = where[-1].as_py() if batch.num_rows else before
        for index in np.flatnonzero(found):
            own, last = (
                self.tokens(int(index)).input_ids[:PREFIX_TOKENS],
                self.tokens(int(index) - 1).input_ids[:PREFIX_TOKENS],
            )
            found[index] = np.array_equal(own, last)
        return found

    @cached_property
    def sources(self) -> list[str]:
        """The source of every example, in order."""
        return [name for batch in self._batches for name in batch.column("source").to_pylist()]

    def _locate(self, index: int) -> tuple[int, int]:
        """The batch of an example, and its row in the batch."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no example {index} of {len(self)}")
        number = int(self._ends.searchsorted(index, "right"))
        return number, int(index) - (int(self._ends[number - 1]) if number else 0)

    def _view(self, number: int, name: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """The offset of each list of a column and the end of the last one; the values of all lists."""
        if (number, name) not in self._views:
            column = self._batches[number].column(name)
            self._views[number, name] = _as_numpy(column.offsets, np.int32), _as_numpy(column.values, LIST_DTYPES[name])
        return self._views[number, name]

    def _list(self, number: int, row: int, name: str) -> NDArray[Any]:
        """One list of a column, as a view."""
        offsets, values = self._view(number, name)
        return values[offsets[row] : offsets[row + 1]]


def _as_numpy(array: Any, dtype: Any) -> NDArray[Any]:
    """A view of an Arrow array without nulls; its own ``to_numpy`` would import pandas, which takes half a second."""
    values = np.frombuffer(array.buffers()[1], dtype) if len(array) else np.zeros(0, dtype)
    return values[array.offset : array.offset + len(array)]


def _batches(directory: Path) -> list[Any]:
    """The memory-mapped record batches of a split, without empty ones."""
    import pyarrow

    try:
        state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        batches: list[Any] = []
        for file in state["_data_files"]:
            with pyarrow.ipc.open_stream(pyarrow.memory_map(str(directory / file["filename"]))) as stream:
                batches += [batch for batch in stream if batch.num_rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SftError(
            where=str(directory),
            problem=f"the examples cannot be read ({error})",
            fix=damaged_data_fix(directory.parent),
        ) from error
    return batches


@dataclass(frozen=True)
class PreparedData:
    """An opened prepared directory.

    Attributes:
        directory: The directory.
        manifest: Inputs and results of the preparation.
        train: The training examples, each once.
        validation: The held-out examples.
        stages: The stages of an epoch: numbers of training examples, in order, with repeats.
    """

    directory: Path
    manifest: dict[str, Any]
    train: Split
    validation: Split
    stages: list[Stage]

    @property
    def tokenizer_directory(self) -> Path:
        """The directory of the tokenizer and its template."""
        return self.directory / "tokenizer"

    @property
    def longest_example(self) -> int:
        """Tokens of the longest example, including held-out ones."""
        return int(max(self.train.lengths.max(), max(self.validation.lengths, default=0)))


MAX_NAMED = 3
"""Prepared directories that an error names."""


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a prepared directory; None if there is none, or the directory is something else."""
    file = directory / "manifest.json"
    if is_run(directory):
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and {"fingerprint", "content", "inputs"} <= manifest.keys() else None


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a run, which has a copy of the manifest of its data."""
    return (directory / "config.yaml").is_file() and (directory / "data.json").is_file()


def unknown_files(directory: Path) -> list[str]:
    """Return the names in a directory that ``sft prepare`` does not write."""
    return sorted({file.name for file in directory.iterdir()} - FILE_NAMES)


def _not_prepared(directory: Path) -> SftError:
    """Return the error for a path that is no prepared directory; its fix names the prepared data that exist."""
    runs = [directory] if is_run(directory) else [file.parent for file in sorted(directory.glob("*/data.json"))]
    data = [json.loads((run / "data.json").read_text(encoding="utf-8"))["prepared_dir"] for run in runs if is_run(run)]
    if data:
        problem = "it is a run" if is_run(directory) else f"it holds {len(data)} run{'s' * (len(data) > 1)}"
        problem += ", not a prepared directory"
    elif not directory.exists():
        problem = "there is no such directory"
    elif directory.is_file():
        problem = "it is a file, not a directory that sft prepare wrote"
    else:
        problem = "not a prepared directory (no manifest.json)"
    known = list(dict.fromkeys(data)) or _newest_prepared(directory)
    commands = [f"sft inspect {shlex.quote(path)}" for path in known[:MAX_NAMED]]
    if not data and (directory.is_file() or not commands):
        rows = shlex.quote(str(directory)) if directory.is_file() else "FILE"
        commands.insert(0, f"sft prepare {rows} model=DIR_OR_HUB_ID prepared_dir=DIR")
    return SftError(where=str(directory), problem=problem, fix="\n".join(commands))


def _newest_prepared(near: Path) -> list[str]:
    """Return the prepared directories next to a path, in the working directory and in the cache, newest first."""
    folders = dict.fromkeys((near.parent, Path(), cache_home() / "prepared"))
    times = {
        file.parent: file.stat().st_mtime
        for folder in folders
        for file in folder.glob("*/manifest.json")
        if read_manifest(file.parent) is not None
    }
    return [str(path) for path in sorted(times, key=lambda path: -times[path])]


def open_prepared(directory: Path) -> PreparedData:
    """Open a prepared directory.

    Raises:
        SftError: It is not a prepared directory, or cannot be read.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise _not_prepared(directory)
    encoded = manifest["inputs"].get("encode", {})  # an earlier version's manifest may have none
    cut = encoded["max_length"] if encoded.get("rules", {}).get("overflow") == Overflow.truncate.value else None
    train, validation = Split(directory / "train", cut), Split(directory / "validation", cut)
    return PreparedData(directory, manifest, train, validation, curriculum.load_stages(directory, len(train)))
