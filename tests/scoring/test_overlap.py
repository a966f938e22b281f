"""ROUGE, BLEU, chrF and the F1 of words: values by hand, and those of the packages on whole texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_cli.scoring.metrics.overlap import squad_words, words_f1
from sft_cli.scoring.registry import make_scorer
from sft_cli.scoring.types import Answer
from tests.scoring.items import item, score, verdict


def test_rouge_by_hand():
    found = verdict("rouge", "the cat sat here", "the cat sat on the mat").scores
    # Shared: 3 of 4 and 6 words, 2 of 3 and 5 pairs; "the cat sat" in order.
    assert found == pytest.approx({"rouge1": 6 / 10, "rouge2": 4 / 8, "rougeL": 6 / 10})
    assert score("rouge", "cats", "cat", options={"stem": True}) == 1
    assert score("rouge", "cats", "cat") == 0
    assert score("rouge", "", "cat") == 0


def test_rouge_counts_letters_of_every_script():
    assert score("rouge", "Привет мир", "привет мир") == 1
    assert score("rouge", "你好吗", "你好") == pytest.approx(2 * 2 / 5)
    assert score("rouge", "café", "cafe") == 0


def test_rouge_equals_the_package_on_english():
    from rouge_score.rouge_scorer import RougeScorer

    texts = [
        ("The cat's 2 hats, well-made; (the) end.", "A cat has 2 well made hats: the end"),
        ("running runs", "run"),
    ]
    for stem in (False, True):
        oracle = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
        for answer, target in texts:
            expected = {name: value.fmeasure for name, value in oracle.score(target, answer).items()}
            assert verdict("rouge", answer, target, options={"stem": stem}).scores == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_corpus_scores_equal_the_package_and_several_references_may_differ_in_number(metric):
    import sacrebleu

    items = [item("the cat sat on the mat"), item("it is raining today", "it rains today")]
    answers = ["the cat sat on a mat", "it rains today"]
    scorer = make_scorer(metric, {}, "metric")
    verdicts = [scorer.score(one, Answer(answer)) for one, answer in zip(items, answers, strict=True)]
    references = [["the cat sat on the mat", "it is raining today"], ["the cat sat on the mat", "it rains today"]]
    corpus = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[metric]
    assert scorer.summarize(items, verdicts) == pytest.approx({metric: corpus(answers, references).score / 100})
    assert verdicts[1].scores == pytest.approx({f"sentence_{metric}": 1.0})
    assert score(metric, "", "the cat") == 0
    assert scorer.summarize([], []) == {}


@pytest.mark.parametrize(
    ("answer", "targets", "f1", "exact"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),
        ("in the Eiffel Tower", ["eiffel tower"], 0.8, 0),
        ("Rome", ["Paris"], 0, 0),
        ("Rome", ["Paris", "rome"], 1, 1),
        ("the", [""], 1, 1),
        ("", ["Paris"], 0, 0),
        ("a a b", ["a b b"], 2 / 3 * 1.0, 0),
    ],
)
def test_token_f1(answer, targets, f1, exact):
    if answer == "a a b":  # articles are dropped: b against b b
        assert squad_words(answer) == ["b"]
    assert verdict("token_f1", answer, *targets).scores == pytest.approx({"token_f1": f1, "squad_exact": exact})


@given(st.lists(st.sampled_from("xyz")), st.lists(st.sampled_from("xyz")))
def test_f1_of_words_is_symmetric_and_one_for_permutations(one, other):
    assert 0 <= words_f1(one, other) == words_f1(other, one) <= 1
    assert words_f1(one, sorted(one)) == 1
