"""How much of the items of a suite stands in the training rows.

The words of an item's question are compared by n-grams (Brown et al., 2020, arXiv:2005.14165, appendix C, with n from 8
to 13): 13-grams of a question of 26 words or more, 8-grams of a shorter one, all words of one below 8. An item overlaps
if a single training row holds half or more of them.
"""

from collections.abc import Mapping, Sequence

from sft_cli.blame.training_turns import TrainingTurn
from sft_cli.clean.ngrams import build_index, overlapping_prompts
from sft_cli.utils.words import normalized_words

LONG_NGRAM, SHORT_NGRAM, LONG_WORDS, FEWEST_WORDS = 13, 8, 26, 5
"""Words of an n-gram of a long and of a short question, words from which a question is long, and the fewest that are
compared: a shorter question occurs by chance."""
THRESHOLD = 0.5
"""Share of the n-grams of an item in one training row from which the item overlaps."""
BATCH = 5000
"""Training rows that are compared together."""


def largest_shares(questions: Mapping[str, str], turns: Sequence[TrainingTurn]) -> dict[str, tuple[float, str]]:
    """Return for each overlapping item the largest share of its n-grams in a training row, and the row's location.

    Args:
        questions: The question of each item, by id.
        turns: The trained answers with their questions.
    """
    sizes = {id: len(normalized_words(text)) for id, text in questions.items()}
    groups = {
        LONG_NGRAM: [id for id, size in sizes.items() if size >= LONG_WORDS],
        SHORT_NGRAM: [id for id, size in sizes.items() if FEWEST_WORDS <= size < LONG_WORDS],
    }
    found: dict[str, tuple[float, str]] = {}
    for length, ids in groups.items():
        if not ids:
            continue
        index = build_index([questions[id] for id in ids], length)
        for first in range(0, len(turns), BATCH):
            batch = turns[first : first + BATCH]
            texts = [(turn.question, turn.answer) for turn in batch]
            for turn, matches in zip(batch, overlapping_prompts(index, texts, THRESHOLD), strict=True):
                for prompt, share in matches:
                    if share > found.get(ids[prompt], (0.0, ""))[0]:
                        found[ids[prompt]] = (share, turn.where)
    return found


def compared(questions: Mapping[str, str]) -> int:
    """Return the number of questions that are long enough to be compared."""
    return sum(len(normalized_words(text)) >= FEWEST_WORDS for text in questions.values())
