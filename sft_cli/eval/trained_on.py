"""The examples of an evaluation that the run was trained on. Does not import torch."""

from dataclasses import dataclass

import numpy as np

from sft_cli.data.prepared import Split


@dataclass(frozen=True, slots=True)
class TrainingOverlap:
    """Examples of an evaluation that are in the training data, by index.

    Attributes:
        examples: The examples that were trained on unchanged.
        prompts: Further examples whose prompt was trained with another answer.
    """

    examples: tuple[int, ...]
    prompts: tuple[int, ...]


def find_training_overlap(evaluated: Split, trained: Split) -> TrainingOverlap:
    """Find the examples of a split that are in the training data, by comparing token ids.

    A prompt is everything before the first trained token; an example without one is compared only as a whole.
    """
    texts = [ids.tobytes() for ids in (evaluated.tokens(index).input_ids for index in range(len(evaluated)))]
    lengths, trained_lengths = evaluated.prompt_lengths(), trained.prompt_lengths()
    prompts = [evaluated.tokens(i).input_ids[:n].tobytes() if n > 1 else b"" for i, n in enumerate(lengths.tolist())]
    evaluated_texts, evaluated_prompts = set(texts), set(prompts) - {b""}
    seen_texts, seen_prompts = set[bytes](), set[bytes]()
    # Only examples of equal length can be equal, so few examples of a large data set are read.
    for index in np.flatnonzero(np.isin(trained.lengths, evaluated.lengths)).tolist():
        seen_texts.add(trained.tokens(index).input_ids.tobytes())
    for index in np.flatnonzero(np.isin(trained_lengths, lengths) & (trained_lengths > 1)).tolist():
        seen_prompts.add(trained.tokens(index).input_ids[: trained_lengths[index]].tobytes())
    seen_texts &= evaluated_texts
    seen_prompts &= evaluated_prompts
    same = tuple(index for index, text in enumerate(texts) if text in seen_texts)
    prompt_matches = (index for index, prompt in enumerate(prompts) if prompt in seen_prompts)
    return TrainingOverlap(same, tuple(sorted({*prompt_matches} - {*same})))
