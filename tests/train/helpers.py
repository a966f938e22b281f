"""Examples, written by hand or random, and the predictions of a batch as its documents define them."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from sft_cli.batching.collate import Batch
from sft_cli.data.prepared import TokenizedExample


def tokens(ids: Sequence[int], weights: Sequence[float]) -> TokenizedExample:
    return TokenizedExample(np.array(ids, np.int64), np.array(weights, np.float32))


def answering(prompt: Sequence[int], answer: Sequence[int]) -> TokenizedExample:
    """An example that trains its answer."""
    return tokens([*prompt, *answer], [0] * len(prompt) + [1] * len(answer))


@st.composite
def families(draw) -> list[TokenizedExample]:
    """Examples with common prefixes: copies and nested prefixes, any trained tokens."""
    examples: list[TokenizedExample] = []
    for _ in range(draw(st.integers(1, 7))):
        head: list[int] = []
        if examples and draw(st.booleans()):
            parent = draw(st.sampled_from(examples))
            head = parent.input_ids[: draw(st.integers(0, len(parent.input_ids)))].tolist()
        ids = head + draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
        trained = draw(st.lists(st.sampled_from([0, 0, 0, 0.5, 1]), min_size=len(ids), max_size=len(ids)))
        untrained = draw(st.integers(0, len(ids)))
        examples.append(tokens(ids, [0] * untrained + trained[untrained:]))
    return examples


Prediction = tuple[tuple[int, ...], tuple[int, ...], int, float]
"""The ids and the positions that a target is predicted from, the target, and its weight."""


def predictions(batch: Batch) -> list[Prediction]:
    """Return every target with the tokens that its position can attend to, from the segments of the row."""
    row = batch.documents
    bounds = row.cu_queries.tolist()
    ids, positions = batch.input_ids[0].tolist(), batch.positions[0].tolist()
    results = []
    columns = (batch.target_at, batch.targets, batch.target_weights)
    for at, target, weight in zip(*(column.tolist() for column in columns), strict=True):
        segment = next(s for s in range(len(row.lengths)) if bounds[s] <= at < bounds[s + 1])
        indices = [
            index for ancestor in row.ancestors(segment) for index in range(bounds[ancestor], bounds[ancestor + 1])
        ]
        indices += range(bounds[segment], at + 1)
        results.append((tuple(ids[p] for p in indices), tuple(positions[p] for p in indices), target, weight))
    return results


def expected(examples: Sequence[TokenizedExample]) -> list[Prediction]:
    """Return the expected result of ``predictions``: for each example, each trained id with all ids before it."""
    return [
        (tuple(example.input_ids[:t].tolist()), tuple(range(t)), int(example.input_ids[t]), float(example.weights[t]))
        for example in examples
        for t in range(1, len(example.input_ids))
        if example.weights[t]
    ]
