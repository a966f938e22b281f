"""The prepared directory: what `prepare` writes and everything after it reads. No torch.

DIR/train, DIR/validation   Arrow rows that ``datasets.load_from_disk(DIR)`` opens: input_ids, labels, where, source
DIR/manifest.json           fingerprint, counts, tokens, reasons, length quantiles
DIR/ledger.jsonl            one line per input row and its fate
DIR/tokenizer/              the tokenizer with the chat template a server will use
DIR/golden.json             prompts and the ids a server must make of them
"""

import errno
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sft_cli.data.types import Example
from sft_cli.errors import SftError

IGNORE = -100
NAMES = {"train", "validation", "dataset_dict.json", "manifest.json", "ledger.jsonl", "tokenizer", "golden.json"}
"""What a prepared directory holds."""
SCRATCH = ".sft-prepare-"
"""In the names of unfinished directories."""
BATCH = 1000
"""Examples written at once."""
Side = Literal["train", "validation"]


class SplitWriter:
    """Appends examples to one split below a directory, in bounded memory.

    ``weighted`` adds a column ``loss_weights`` for messages whose weight is neither 0 nor 1.
    """

    def __init__(self, directory: Path, side: Side, weighted: bool) -> None:
        from datasets import Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        columns = {
            "input_ids": List(Value("int32")),
            "labels": List(Value("int32")),
            "where": Value("string"),
            "source": Value("string"),
        }
        self._weighted = weighted
        if weighted:
            columns["loss_weights"] = List(Value("float32"))
        self._final, self._file = directory / side, directory / f"{side}.arrow"
        self._features = Features(columns)
        self._writer = ArrowWriter(path=str(self._file), features=self._features)
        self._pending: list[Example] = []
        self.num_examples = 0

    def write(self, examples: Sequence[Example]) -> None:
        """Append examples."""
        self._pending += examples
        self.num_examples += len(examples)
        if len(self._pending) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        """Write what is pending."""
        examples, self._pending = self._pending, []
        if not examples:
            return
        batch: dict[str, list[Any]] = {
            "input_ids": [example.input_ids for example in examples],
            "labels": [
                [id if weight else IGNORE for id, weight in zip(example.input_ids, example.weights, strict=True)]
                for example in examples
            ],
            "where": [example.where for example in examples],
            "source": [example.source for example in examples],
        }
        if self._weighted:
            batch["loss_weights"] = [example.weights for example in examples]
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Finish the split as ``datasets`` saves one."""
        from datasets import Dataset
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()
        self._flush()
        self._writer.finalize()
        rows = Dataset.from_file(str(self._file)) if self.num_examples else _empty(self._features)
        rows.save_to_disk(str(self._final), num_shards=1)
        del rows
        self._file.unlink(missing_ok=True)


def _empty(features: Any) -> Any:
    """A data set without rows."""
    from datasets import Dataset

    return Dataset.from_dict({name: [] for name in features}, features=features)


def finish(directory: Path) -> None:
    """Make the directory one that ``datasets.load_from_disk`` opens as a whole."""
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}) + "\n")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example ready to be laid out: ``input_ids`` ``(length,)`` int64 and ``weights`` ``(length,)`` float32."""

    input_ids: NDArray[np.int64]
    weights: NDArray[np.float32]


def _chunks(rows: Any) -> list[Any]:
    """The ids of a data set as Arrow list arrays, memory-mapped."""
    return rows.data.column("input_ids").chunks


class Split:
    """The examples of one split, memory-mapped."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows.with_format("numpy")
        self._weighted = "loss_weights" in rows.column_names
        lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in _chunks(rows)]
        self.lengths: NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *lengths]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, index: int) -> Tokens:
        """Ids and loss weights of one example."""
        row = self._rows[int(index)]
        trained = row["labels"] != IGNORE
        weights = row["loss_weights"] * trained if self._weighted else trained
        return Tokens(row["input_ids"].astype(np.int64), weights.astype(np.float32))

    def largest_id(self) -> int:
        """The largest token id of the split; -1 when it is empty."""
        return max((int(chunk.flatten().to_numpy().max()) for chunk in _chunks(self._rows) if len(chunk)), default=-1)

    def where(self, index: int) -> str:
        """The row an example came from."""
        return str(self._rows[int(index)]["where"])

    @property
    def sources(self) -> list[str]:
        """The source of every example, in order."""
        return list(self._rows.data.column("source").to_pylist())


@dataclass(frozen=True)
class Prepared:
    """An opened prepared directory."""

    directory: Path
    manifest: dict[str, Any]
    train: Split
    validation: Split

    @property
    def tokenizer_directory(self) -> Path:
        """Where the tokenizer with its template lies."""
        return self.directory / "tokenizer"


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a prepared directory; None where there is none, or one of something else."""
    file = directory / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and {"fingerprint", "inputs"} <= manifest.keys() else None


def foreign(directory: Path) -> list[str]:
    """Names in a directory that are not those of a prepared one."""
    return sorted({file.name for file in directory.iterdir()} - NAMES)


def open_prepared(directory: Path) -> Prepared:
    """Open a prepared directory.

    Raises:
        SftError: It is none.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise SftError(
            where=str(directory),
            problem="not a prepared directory (no manifest.json)",
            fix="run sft prepare with the same arguments, or leave prepared_dir out",
        )
    from datasets import load_from_disk

    def split(side: Side) -> Split:
        return Split(load_from_disk(str(directory / side)))

    return Prepared(directory, manifest, split("train"), split("validation"))


def replace_directory(new: Path, final: Path) -> None:
    """Move a finished directory into place; what stood there is removed only afterwards.

    Another process may be doing the same: if it has put the same data there, ``new`` stays where it is.

    Raises:
        SftError: Another process has put other data there meanwhile.
    """
    old = scratch(final)
    try:
        if not _moved(new, final):
            with suppress(FileNotFoundError):  # another process has moved it away
                final.rename(old / final.name)
            if not _moved(new, final):
                raise SftError(
                    where=str(final),
                    problem="another process has put other data there at the same time",
                    fix="give each run a prepared_dir of its own, or leave it out",
                )
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _moved(new: Path, final: Path) -> bool:
    """Whether ``final`` now holds what ``new`` did: moved there, or put there by another process; else it is taken."""
    try:
        new.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        made, present = read_manifest(new), read_manifest(final)
        return made is not None and present is not None and made["fingerprint"] == present["fingerprint"]
    return True


def scratch(final: Path) -> Path:
    """A new empty directory beside ``final``; those that killed processes left there are removed after a day."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".*{SCRATCH}*"):
        with suppress(FileNotFoundError):  # its own process has removed it
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f".{final.name}{SCRATCH}", dir=final.parent))
