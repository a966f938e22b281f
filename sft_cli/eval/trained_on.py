"""How many of the examples of an evaluation the run was trained on. No torch."""

from dataclasses import dataclass

import numpy as np

from sft_cli.data.prepared import Split


@dataclass(frozen=True, slots=True)
class Overlap:
    """Examples of an evaluation that the training data hold, by number.

    Attributes:
        same: Those that were trained on as they are.
        asked: Further ones whose prompt was trained with another answer.
    """

    same: tuple[int, ...]
    asked: tuple[int, ...]


def overlap(evaluated: Split, trained: Split) -> Overlap:
    """The examples of one split that are in another, compared by token ids.

    A prompt is what stands before the first trained token; an example without one is compared as a whole only.
    """
    texts = [ids.tobytes() for ids in (evaluated.tokens(index).input_ids for index in range(len(evaluated)))]
    lengths, known = evaluated.prompt_lengths(), trained.prompt_lengths()
    prompts = [evaluated.tokens(i).input_ids[:n].tobytes() if n > 1 else b"" for i, n in enumerate(lengths.tolist())]
    wanted, asked = set(texts), set(prompts) - {b""}
    seen_texts, seen_prompts = set[bytes](), set[bytes]()
    # Only examples with a length that occurs here can be equal: of a large data set few are read.
    for index in np.flatnonzero(np.isin(trained.lengths, evaluated.lengths)).tolist():
        seen_texts.add(trained.tokens(index).input_ids.tobytes())
    for index in np.flatnonzero(np.isin(known, lengths) & (known > 1)).tolist():
        seen_prompts.add(trained.tokens(index).input_ids[: known[index]].tobytes())
    seen_texts &= wanted
    seen_prompts &= asked
    same = tuple(index for index, text in enumerate(texts) if text in seen_texts)
    also = (index for index, prompt in enumerate(prompts) if prompt in seen_prompts)
    return Overlap(same, tuple(sorted({*also} - {*same})))
