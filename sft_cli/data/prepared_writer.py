"""Examples on their way to disk: as Arrow tables, and in files of a limited size as ``datasets`` reads them."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sft_cli.types import Example

IGNORE_INDEX = -100
"""The label of a token that carries no loss, as Hugging Face writes it."""


def example_table(examples: Sequence[Example]) -> Any:
    """Examples as an Arrow table: input_ids, labels, where, source, and loss_weights where one is neither 0 nor 1."""
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
    """Loss weights of 0 and 1 for a column of labels."""
    import pyarrow

    chunks = []
    for chunk in labels.chunks:
        values = (chunk.flatten().to_numpy() != IGNORE_INDEX).astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(chunk.value_lengths().to_numpy())]).astype(np.int32)
        chunks.append(pyarrow.ListArray.from_arrays(offsets, values))
    return pyarrow.chunked_array(chunks, pyarrow.list_(pyarrow.float32()))


SHARD_BYTES = 500_000_000
"""A file that holds as much is closed, and the next one begun: what ``datasets`` takes by default."""


class ShardWriter:
    """Appends Arrow tables to files of about ``SHARD_BYTES`` in a directory that ``datasets`` saved without rows.

    Args:
        directory: Of one split; its ``state.json`` names the files when all are written.
        schema: Of the tables.
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
        """Finish the last file, and name all; ``fingerprint`` is what ``datasets`` names its own caches after."""
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
