"""Find the training rows nearest to a failed item."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sft_cli.blame.failures import Failure
from sft_cli.blame.training_turns import TrainingTurn
from sft_cli.blame.word_index import TfidfIndex
from sft_cli.scoring.normalize import normalize_answer
from sft_cli.utils.words import normalized_words

Relation = Literal["contradicts", "agrees", "related"]
SAME_QUESTION, SAME_ANSWER = 0.9, 0.6
"""Similarity from which two questions count as the same one in other words; the second if the row gives the model's own
answer."""
UNRELATED = 0.3
"""Similarity below which a training row says nothing about a question."""
CANDIDATES = 25
"""Rows with the highest scores whose answers are judged."""
MAX_ROWS = 5
"""Rows named for each item."""


@dataclass(frozen=True, slots=True)
class NearRow:
    """Equal training rows that are near to a failed item.

    Attributes:
        turn: The first of them.
        where: The location of each of them.
        similarity: Similarity of the questions, from 0 to 1.
        answer_similarity: Similarity of its answer to the model's answer, from 0 to 1.
        relation: contradicts: the same question, by its words, with an answer that the item counts as wrong; agrees:
            the same question with a right answer; related: another question.
    """

    turn: TrainingTurn
    where: tuple[str, ...]
    similarity: float
    answer_similarity: float
    relation: Relation


class TrainingIndex:
    """Training rows by the words of their questions and answers; equal ones are one entry."""

    def __init__(self, turns: Iterable[TrainingTurn]) -> None:
        places: dict[tuple[str, str], int] = {}
        self._turns, self._where = list[TrainingTurn](), list[list[str]]()
        for turn in turns:
            key = " ".join(normalized_words(turn.question)), normalize_answer(turn.answer)
            place = places.setdefault(key, len(places))
            if place == len(self._turns):
                self._turns.append(turn)
                self._where.append([])
            self._where[place].append(turn.where)
        self._questions = TfidfIndex(turn.question for turn in self._turns)
        self._answers = TfidfIndex(turn.answer for turn in self._turns)

    def __len__(self) -> int:
        return len(self._turns)

    def nearest(self, failure: Failure, number: int = MAX_ROWS) -> list[NearRow]:
        """Return the nearest rows: contradicting ones first, then by ``similarity * (1 + answer_similarity) / 2``.

        A row with another question counts the less the more it differs; a row that gives the model's own wrong answer
        counts up to twice as much as one that does not.
        """
        similar, answers = self._questions.similarities(failure.question), self._answers.similarities(failure.answer)
        scores = similar * (1 + answers) / 2
        candidates = np.argsort(-scores, kind="stable")[:CANDIDATES].tolist()
        rows = [
            NearRow(
                self._turns[place],
                tuple(self._where[place]),
                float(similar[place]),
                float(answers[place]),
                self._relation(failure, place, float(similar[place])),
            )
            for place in candidates
            if similar[place] >= UNRELATED
        ]
        return sorted(rows, key=lambda row: row.relation != "contradicts")[:number]

    def _relation(self, failure: Failure, place: int, similarity: float) -> Relation:
        answer = self._turns[place].answer
        is_same = normalize_answer(answer) == normalize_answer(failure.answer)
        if similarity < (SAME_ANSWER if is_same else SAME_QUESTION):
            return "related"
        return "agrees" if failure.is_right(answer) else "contradicts"
