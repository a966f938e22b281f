"""Write examples to disk, as Arrow tables in files of a limited size that ``datasets`` can read."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sft_cli.types import Example, SplitName

IGNORE_INDEX = -100
"""The label of a token without loss, as in Hugging Face's libraries."""
LIST_DTYPES: dict[str, Any] = {"input_ids": np.int32, "labels": np.int32, "loss_weights": np.float32}
"""The columns with a list for each example, and the dtype of its values."""
BATCH = 1000
"""Examples of a record batch."""


def example_table(examples: Sequence[Example]) -> Any:
    """Return examples as an Arrow table; it has ``loss_weights`` if one is neither 0 nor 1."""
    import pyarrow

    lengths = np.fromiter((len(example.input_ids) for example in examples), np.int64, len(examples))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    total = int(offsets[-1])
    ids = np.fromiter(chain.from_iterable(example.input_ids for example in examples), np.int32, total)
    weights = np.fromiter(chain.from_iterable(example.weights for example in examples), np.float32, total)
    columns = {
        "input_ids": pyarrow.ListArray.from_arrays(offsets, ids),
        "labels": pyarrow.ListArray.from_arrays(offsets, np.where(weights > 0, ids, np.int32(IGNORE_INDEX))),
        "where": pyarrow.array([example.where for example in examples], pyarrow.string()),
        "source": pyarrow.array([example.source for example in examples], pyarrow.string()),
    }
    if ((weights != 0) & (weights != 1)).any():
        columns["loss_weights"] = pyarrow.ListArray.from_arrays(offsets, weights)
    return pyarrow.table(columns)


def weights_from_labels(labels: Any) -> Any:
    """Return loss weights of 0 and 1 for a column of labels."""
    import pyarrow

    chunks = []
    for chunk in labels.chunks:
        values = (chunk.flatten().to_numpy() != IGNORE_INDEX).astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(chunk.value_lengths().to_numpy())]).astype(np.int32)
        chunks.append(pyarrow.ListArray.from_arrays(offsets, values))
    return pyarrow.chunked_array(chunks, pyarrow.list_(pyarrow.float32()))


SHARD_BYTES = 500_000_000
"""Size at which a file is closed and the next one started; the default of ``datasets``."""


class ShardWriter:
    """Appends Arrow tables to files of about ``SHARD_BYTES`` in a directory that ``datasets`` saved without rows.

    Args:
        directory: Directory of one split; its ``state.json`` lists the files once all are written.
        schema: Schema of the tables.
    """

    def __init__(self, directory: Path, schema: Any) -> None:
        self._directory, self._schema, self._files = directory, schema, list[Path]()
        for empty in directory.glob("*.arrow"):
            empty.unlink()
        self._open_file()

    def write(self, examples: Any, max_rows: int) -> None:
        """Append a table, in batches of at most ``max_rows``."""
        if self._sink.tell() >= SHARD_BYTES:
            self._close_file()
            self._open_file()
        self._writer.write_table(examples, max_chunksize=max_rows)

    def close(self, fingerprint: str) -> None:
        """Finish the last file, and list all files; ``datasets`` names its own caches after ``fingerprint``."""
        self._close_file()
        names = [f"data-{number:05}-of-{len(self._files):05}.arrow" for number in range(len(self._files))]
        for file, name in zip(self._files, names, strict=True):
            file.rename(self._directory / name)
        state = json.loads((self._directory / "state.json").read_text(encoding="utf-8"))
        state |= {"_data_files": [{"filename": name} for name in names], "_fingerprint": fingerprint}
        (self._directory / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def _open_file(self) -> None:
        import pyarrow

        self._files.append(self._directory / f"data-{len(self._files):05}.arrow")
        self._sink = pyarrow.OSFile(str(self._files[-1]), "wb")
        self._writer = pyarrow.ipc.new_stream(self._sink, self._schema)

    def _close_file(self) -> None:
        self._writer.close()
        self._sink.close()


class SplitWriter:
    """Appends Arrow tables of examples to one split of a prepared directory.

    Args:
        directory: The prepared directory.
        side: The split.
        weighted: Whether to add a column ``loss_weights``, for loss weights other than 0 and 1.
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
        """``(examples,)``: the lengths of the written examples in tokens."""
        return np.concatenate([np.zeros(0, np.int64), *self._lengths])

    def write(self, examples: Any) -> None:
        """Append a table of examples; without ``loss_weights``, trained tokens have the weight 1."""
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
        """Return digests of what is learned from the examples: their lengths and the columns of lists."""
        lengths = blake2b(self.lengths.tobytes(), digest_size=16).hexdigest()
        return [lengths, *(self._digests[name].hexdigest() for name in sorted(self._digests))]

    def close(self) -> None:
        """Finish the split."""
        self._shards.close(blake2b("".join(self.content()).encode(), digest_size=8).hexdigest())


def write_dataset_dict(directory: Path) -> None:
    """Write the file with which ``datasets.load_from_disk`` opens the whole directory."""
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}) + "\n")
