"""The prepared directory: what `prepare` writes and everything after it reads. No torch.

DIR/train, DIR/validation   Arrow rows that ``datasets.load_from_disk(DIR)`` opens: input_ids, labels, where, source
DIR/stages/                 an epoch as numbers of training examples, repeats among them, stage by stage
DIR/manifest.json           fingerprint, counts, tokens, reasons, length quantiles
DIR/ledger.jsonl            one line per input row and its fate
DIR/dropped.jsonl           some of the dropped rows as they are, a few for each reason
DIR/tokenizer/              the tokenizer with the chat template a server will use
DIR/golden.json             prompts and the ids a server must make of them
DIR/report.html             all of this to look at
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.config.schema.data import Overflow
from sft_cli.data.mixing import curriculum
from sft_cli.data.mixing.curriculum import Stage
from sft_cli.data.prepared_writer import IGNORE_INDEX, ShardWriter, weights_from_labels
from sft_cli.data.row_errors import damaged_data_fix
from sft_cli.errors import SftError
from sft_cli.types import SplitName

FILE_NAMES = {
    "train", "validation", "dataset_dict.json", "stages", "manifest.json", "ledger.jsonl", "tokenizer", "golden.json",
    "report.html", "dropped.jsonl",
}  # fmt: skip
"""What a prepared directory holds."""
LIST_DTYPES: dict[str, Any] = {"input_ids": np.int32, "labels": np.int32, "loss_weights": np.float32}
"""Columns that hold a list for each example, and of what."""
BATCH = 1000
"""Examples written at once."""
PREFIX_TOKENS = 8
"""Tokens with which the answers of one unrolled row begin alike."""


class SplitWriter:
    """Appends Arrow tables of examples to one split below a directory, as ``datasets`` saves one.

    ``weighted`` adds a column ``loss_weights`` for examples with a loss weight that is neither 0 nor 1.
    """

    def __init__(self, directory: Path, side: SplitName, weighted: bool) -> None:
        from datasets import Dataset, Features, List, Value
        from datasets.utils.logging import disable_progress_bar

        columns = {
            "input_ids": List(Value("int32")),
            "labels": List(Value("int32")),
            "where": Value("string"),
            "source": Value("string"),
        }
        if weighted:
            columns["loss_weights"] = List(Value("float32"))
        features = Features(columns)
        disable_progress_bar()
        empty = Dataset.from_dict({name: [] for name in columns}, features=features)
        empty.save_to_disk(str(directory / side), num_shards=1)
        self._schema = features.arrow_schema
        self._shards = ShardWriter(directory / side, self._schema)
        self._lengths: list[NDArray[np.int64]] = []
        self._digests = {name: blake2b(digest_size=16) for name in LIST_DTYPES}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(examples,)``: tokens of what was written."""
        return np.concatenate([np.zeros(0, np.int64), *self._lengths])

    def write(self, examples: Any) -> None:
        """Append a table of examples; one without ``loss_weights`` has 1 where its labels are trained."""
        if "loss_weights" in self._schema.names and "loss_weights" not in examples.column_names:
            examples = examples.append_column("loss_weights", weights_from_labels(examples.column("labels")))
        examples = examples.select(self._schema.names).cast(self._schema)
        self._shards.write(examples, BATCH)
        for name in LIST_DTYPES.keys() & set(self._schema.names):
            for chunk in examples.column(name).chunks:
                self._digests[name].update(chunk.flatten().to_numpy().tobytes())
        self._lengths += [
            chunk.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            for chunk in examples.column("input_ids").chunks
        ]

    def content(self) -> list[str]:
        """Digests of what is learnt from the examples, wherever they came from: lengths and the columns of lists."""
        lengths = blake2b(self.lengths.tobytes(), digest_size=16).hexdigest()
        return [lengths, *(self._digests[name].hexdigest() for name in sorted(self._digests))]

    def close(self) -> None:
        """Finish the split."""
        self._shards.close(blake2b("".join(self.content()).encode(), digest_size=8).hexdigest())


def write_dataset_dict(directory: Path) -> None:
    """Make the directory one that ``datasets.load_from_disk`` opens as a whole."""
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}) + "\n")


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One example ready to be laid out: ``input_ids`` ``(length,)`` int64 and ``weights`` ``(length,)`` float32."""

    input_ids: NDArray[np.int64]
    weights: NDArray[np.float32]


class Split:
    """The examples of one split, memory-mapped; ``lengths`` holds the tokens of each, ``(examples,)``.

    ``truncated_at`` is the length at which longer examples were cut; None where none was.
    """

    def __init__(self, directory: Path, truncated_at: int | None = None) -> None:
        """Open a directory as ``datasets`` saves one; SftError when it cannot be read."""
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
        """Ids and loss weights of one example."""
        number, row = self._locate(index)
        trained = self._list(number, row, "labels") != IGNORE_INDEX
        weights = self._list(number, row, "loss_weights") * trained if self._weighted else trained
        return TokenizedExample(self._list(number, row, "input_ids").astype(np.int64), weights.astype(np.float32))

    def prompt_lengths(self) -> NDArray[np.int64]:
        """``(examples,)``: how many tokens of each come before its first trained one; all of them where none is."""
        found = [np.zeros(0, np.int64)]
        for number in range(len(self._batches)):
            offsets, labels = self._view(number, "labels")
            ends = offsets.astype(np.int64)
            trained = np.append(np.flatnonzero(labels != IGNORE_INDEX), len(labels))
            first = trained[np.searchsorted(trained, ends[:-1])]
            found.append(np.minimum(first, ends[1:]) - ends[:-1])
        return np.concatenate(found)

    def largest_id(self) -> int:
        """The largest token id of the split; -1 when it is empty."""
        views = (self._view(number, "input_ids") for number in range(len(self._batches)))
        return max((int(ids[ends[0] : ends[-1]].max()) for ends, ids in views if ends[-1] > ends[0]), default=-1)

    def present(self, ids: Sequence[int]) -> set[int]:
        """Those of the token ids that occur in an example."""
        views = (self._view(number, "input_ids") for number in range(len(self._batches)))
        return {int(id) for ends, found in views for id in np.intersect1d(found[ends[0] : ends[-1]], ids)}

    def where(self, index: int) -> str:
        """The row an example came from."""
        number, row = self._locate(index)
        return str(self._batches[number].column("where")[row].as_py())

    def unrolled(self) -> NDArray[np.bool_]:
        """``(examples,)``: which examples are a further answer of the row before: same row, same first tokens.

        Pieces of a long document are of one row too, but begin differently.
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
        """The batch that holds an example, and its row in there."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no example {index} of {len(self)}")
        number = int(self._ends.searchsorted(index, "right"))
        return number, int(index) - (int(self._ends[number - 1]) if number else 0)

    def _view(self, number: int, name: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Where each list of a column begins, and the end of the last one; the values of all lists."""
        if (number, name) not in self._views:
            column = self._batches[number].column(name)
            self._views[number, name] = _as_numpy(column.offsets, np.int32), _as_numpy(column.values, LIST_DTYPES[name])
        return self._views[number, name]

    def _list(self, number: int, row: int, name: str) -> NDArray[Any]:
        """One list of a column, as a view."""
        offsets, values = self._view(number, name)
        return values[offsets[row] : offsets[row + 1]]


def _as_numpy(array: Any, dtype: Any) -> NDArray[Any]:
    """An Arrow array without nulls as a view; its own ``to_numpy`` would import pandas, which takes half a second."""
    values = np.frombuffer(array.buffers()[1], dtype) if len(array) else np.zeros(0, dtype)
    return values[array.offset : array.offset + len(array)]


def _batches(directory: Path) -> list[Any]:
    """The record batches of a split that hold rows, memory-mapped."""
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
        directory: Where it lies.
        manifest: What went in and what came out.
        train: Every example of an epoch, once.
        validation: Every held-out example.
        stages: An epoch: which examples, how often, in which order.
    """

    directory: Path
    manifest: dict[str, Any]
    train: Split
    validation: Split
    stages: list[Stage]

    @property
    def tokenizer_directory(self) -> Path:
        """Where the tokenizer with its template lies."""
        return self.directory / "tokenizer"


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a prepared directory; None where there is none, or one of something else, such as a run."""
    file = directory / "manifest.json"
    if is_run(directory):
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and {"fingerprint", "content", "inputs"} <= manifest.keys() else None


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's, which keeps a copy of its data's manifest."""
    return (directory / "config.yaml").is_file() and (directory / "data.json").is_file()


def unknown_files(directory: Path) -> list[str]:
    """Names in a directory that are not those of a prepared one."""
    return sorted({file.name for file in directory.iterdir()} - FILE_NAMES)


def open_prepared(directory: Path) -> PreparedData:
    """Open a prepared directory.

    Raises:
        SftError: It is none, or cannot be read.
    """
    manifest = read_manifest(directory)
    if is_run(directory):
        data = json.loads((directory / "data.json").read_text(encoding="utf-8"))["prepared_dir"]
        problem = "it is a run, not a prepared directory"
        raise SftError(where=str(directory), problem=problem, fix=f"sft inspect {shlex.quote(data)}")
    if manifest is None:
        raise SftError(
            where=str(directory),
            problem="not a prepared directory (no manifest.json)",
            fix="name the directory that sft prepare printed",
        )
    encoded = manifest["inputs"].get("encode", {})  # an earlier version's manifest may have none
    cut = encoded["max_length"] if encoded.get("rules", {}).get("overflow") == Overflow.truncate.value else None
    train, validation = Split(directory / "train", cut), Split(directory / "validation", cut)
    return PreparedData(directory, manifest, train, validation, curriculum.load_stages(directory, len(train)))
