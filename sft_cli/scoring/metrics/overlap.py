"""Measure how much of a reference text an answer shares: ROUGE, BLEU, chrF, and F1 over words. All are 0 to 1."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sft_cli.scoring.base import AnyItems, MeanScorer, require_packages, require_target
from sft_cli.scoring.types import Answer, Item, Verdict
from sft_cli.utils.words import normalized_words

LONGEST = 20_000
"""Words of an answer that are compared; ROUGE-L takes time in proportion to the product of the lengths."""


class _Words:
    """The tokenizer that is given to rouge-score: words of any script, where its own drops all but a-z and 0-9."""

    def __init__(self, stem: bool) -> None:
        self._stem = _porter().stem if stem else None

    def tokenize(self, text: str) -> list[str]:
        """Return the words; as rouge-score does, only words of more than three letters are stemmed."""
        words = normalized_words(text)[:LONGEST]
        if self._stem is None:
            return words
        return [self._stem(word) if len(word) > 3 else word for word in words]


def _porter() -> Any:
    """Return the Porter stemmer of NLTK, as rouge-score makes it."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


@cache
def _rouge_scorer(stem: bool) -> Any:
    """Return the scorer of rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words(stem))


@dataclass(frozen=True, slots=True)
class RougeOverlap(MeanScorer):
    """``rouge1``, ``rouge2``, ``rougeL``: F-measures of shared words, pairs and the longest common subsequence.

    The best of several references counts. Source: Lin 2004.

    Attributes:
        stem: Whether English endings are removed (Porter's algorithm).
    """

    stem: bool = False

    def __post_init__(self) -> None:
        require_packages("rouge", "rouge_score")

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the three F-measures."""
        scores = _rouge_scorer(self.stem).score_multi(require_target(item, "rouge"), answer.text)
        return Verdict({name: float(score.fmeasure) for name, score in scores.items()})


@cache
def _bleu(tokenize: str, one_sentence: bool) -> Any:
    """Return the BLEU of sacrebleu."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenize, effective_order=one_sentence)


@cache
def _chrf(word_order: int) -> Any:
    """Return the chrF of sacrebleu."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=word_order)


def _corpus_score(metric: Any, items: Sequence[Item], verdicts: Sequence[Verdict]) -> float:
    """Return the score of all answers as one text, 0 to 1; an item with fewer references repeats its first."""
    most = max(len(item.target) for item in items)
    references = [[item.target[i] if i < len(item.target) else item.target[0] for item in items] for i in range(most)]
    return metric.corpus_score([verdict.extracted or "" for verdict in verdicts], references).score / 100


@dataclass(frozen=True, slots=True)
class BleuOverlap(AnyItems):
    """``bleu`` over all items as sacrebleu computes it, divided by 100; ``sentence_bleu`` per item.

    Attributes:
        tokenize: Tokenizer of sacrebleu: 13a for most languages, zh, char.
    """

    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"

    def __post_init__(self) -> None:
        require_packages("bleu", "sacrebleu")

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the BLEU of one answer."""
        score = _bleu(self.tokenize, True).sentence_score(answer.text, list(require_target(item, "bleu"))).score
        return Verdict({"sentence_bleu": min(1.0, score / 100)}, extracted=answer.text)

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return the BLEU of all answers."""
        return {"bleu": min(1.0, _corpus_score(_bleu(self.tokenize, False), items, verdicts))} if items else {}


@dataclass(frozen=True, slots=True)
class ChrfOverlap(AnyItems):
    """``chrf`` over all items as sacrebleu computes it, divided by 100; ``sentence_chrf`` per item.

    Attributes:
        word_order: Longest n-gram of words that counts, too: 0 for chrF, 2 for chrF++.
    """

    word_order: Literal[0, 1, 2] = 0

    def __post_init__(self) -> None:
        require_packages("chrf", "sacrebleu")

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return the chrF of one answer."""
        score = _chrf(self.word_order).sentence_score(answer.text, list(require_target(item, "chrf"))).score
        return Verdict({"sentence_chrf": min(1.0, score / 100)}, extracted=answer.text)

    def summarize(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Mapping[str, float]:
        """Return the chrF of all answers."""
        return {"chrf": min(1.0, _corpus_score(_chrf(self.word_order), items, verdicts))} if items else {}


def squad_words(text: str) -> list[str]:
    """Return the words of an answer as SQuAD compares them: lower case, no ASCII punctuation, no English articles."""
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(?:a|an|the)\b", " ", plain).split()


def words_f1(answer: Sequence[str], target: Sequence[str]) -> float:
    """Return the F1 of the words that two texts share; two empty texts are equal."""
    if not answer or not target:
        return float(list(answer) == list(target))
    return 2 * (Counter(answer) & Counter(target)).total() / (len(answer) + len(target))


@dataclass(frozen=True, slots=True)
class TokenF1(MeanScorer):
    """``token_f1`` and ``squad_exact``: the metrics of SQuAD (Rajpurkar et al. 2016); the best of several targets."""

    def score(self, item: Item, answer: Answer) -> Verdict:
        """Return F1 and exact match of the words."""
        found = squad_words(answer.text)
        targets = [squad_words(target) for target in require_target(item, "token_f1")]
        scores = {
            "token_f1": max(words_f1(found, target) for target in targets),
            "squad_exact": float(found in targets),
        }
        return Verdict(scores, extracted=" ".join(found))
