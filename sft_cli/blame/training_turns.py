"""The training rows of a run as text: each trained answer with what precedes it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft_cli.chat.tokens.tokenizer import ChatTokenizer, load_tokenizer
from sft_cli.data.prepared import PreparedData, Split
from sft_cli.eval.evaluated import read_stop_ids
from sft_cli.run_dir import RunDir

BATCH = 1000
"""Examples whose texts are decoded together."""


@dataclass(frozen=True, slots=True)
class TrainingTurn:
    """A trained answer of a training row.

    Attributes:
        where: File and line of the row.
        source: Name of the source in the mix.
        question: The text between the previous trained answer and this one, as the template writes it; empty for a
            document.
        answer: The answer, without the stop token.
    """

    where: str
    source: str
    question: str
    answer: str


def run_turns(run: RunDir, prepared: PreparedData) -> Iterator[TrainingTurn]:
    """Yield every trained answer of a run."""
    stops = frozenset(read_stop_ids(run.result))
    return training_turns(prepared.train, load_tokenizer(str(run.tokenizer)), stops)


def training_turns(split: Split, tokenizer: ChatTokenizer, stop_ids: frozenset[int]) -> Iterator[TrainingTurn]:
    """Yield every trained answer of a split, in the order of its examples.

    Args:
        split: The training examples.
        tokenizer: Decodes their ids.
        stop_ids: Tokens that end an answer.
    """
    names = split.sources
    for first in range(0, len(split), BATCH):
        pieces, places = list[list[int]](), list[int]()
        for index in range(first, min(first + BATCH, len(split))):
            example = split.tokens(index)
            before = 0
            for start, end in trained_spans(example.weights):
                ids = example.input_ids[start:end].tolist()
                pieces += [example.input_ids[before:start].tolist(), ids[:-1] if ids[-1] in stop_ids else ids]
                places.append(index)
                before = end
        texts = tokenizer.decode_batch(pieces)
        for number, index in enumerate(places):
            question, answer = texts[2 * number].strip(), texts[2 * number + 1].strip()
            yield TrainingTurn(split.where(index), names[index], question, answer)


def trained_spans(weights: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return start and end of each run of nonzero weights ``(length,)``."""
    edges = np.diff(np.concatenate([[0], (weights != 0).astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges > 0).tolist(), np.flatnonzero(edges < 0).tolist(), strict=True))
