"""The pool of instructions: its similarity is that of rouge-score, its index misses nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_cli.synth.pool import InstructionPool

WORDS = ["write", "a", "poem", "about", "the", "sea", "name", "two", "colours", "of", "it's", "sky-blue"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=12), TEXTS, st.sampled_from([0.5, 0.7, 1.0]))
def test_a_text_is_similar_exactly_if_rouge_score_says_so(texts, candidate, similarity):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    pool = InstructionPool(similarity)
    for text in texts:
        pool.add(text)
    scores = [scorer.score(text, candidate)["rougeL"].fmeasure for text in texts]
    first = next((number for number, score in enumerate(scores) if score >= similarity - 1e-9), None)
    found = pool.similar(candidate)
    assert (None if found is None else found[1]) == first
    assert found is None or found[0] == pytest.approx(scores[found[1]])


def test_no_text_of_a_grown_pool_is_similar_to_another():
    choose, pool = random.Random(3), InstructionPool(0.7)
    words = [f"word{number}" for number in range(30)]
    for _ in range(600):
        text = " ".join(choose.choices(words, k=choose.randint(3, 8)))
        if pool.similar(text) is None:
            pool.add(text)
    assert 100 < len(pool.texts) < 600
    again = InstructionPool(0.7)
    for text in pool.texts:
        assert again.similar(text) is None
        again.add(text)
