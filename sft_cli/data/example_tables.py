"""Examples as Arrow tables: the columns of a prepared split."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from sft_cli.types import Example

IGNORE = -100
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
        "labels": pyarrow.ListArray.from_arrays(offsets, np.where(weights > 0, ids, np.int32(IGNORE))),
        "where": pyarrow.array([example.where for example in examples], pyarrow.string()),
        "source": pyarrow.array([example.source for example in examples], pyarrow.string()),
    }
    if ((weights != 0) & (weights != 1)).any():
        columns["loss_weights"] = pyarrow.ListArray.from_arrays(offsets, weights)
    return pyarrow.table(columns)


def weights_of(labels: Any) -> Any:
    """Loss weights of 0 and 1 for a column of labels."""
    import pyarrow

    chunks = []
    for chunk in labels.chunks:
        values = (chunk.flatten().to_numpy() != IGNORE).astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(chunk.value_lengths().to_numpy())]).astype(np.int32)
        chunks.append(pyarrow.ListArray.from_arrays(offsets, values))
    return pyarrow.chunked_array(chunks, pyarrow.list_(pyarrow.float32()))
