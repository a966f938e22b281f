"""Text of the quickstart: documents that state facts, and instruction rows about them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from quickstart_facts import GENERAL, RELATIONS, Relation, facts

FILLERS = (
    "This is a short note.",
    "This note is about one thing.",
    "Here is a fact that is worth knowing.",
    "People learn this early.",
    "The note has a heading and a few lines.",
    "Every line of this note says the same.",
)
NEUTRAL = FILLERS + GENERAL
"""Lines without any fact."""
TRAIN_SHARE = 0.6
"""Share of a relation's facts in the training rows; the rest is held out."""
TRAIN_PHRASINGS = 2
"""Rows per trained fact."""


def title(relation: Relation, subject: str, rng: random.Random) -> str:
    """Return the heading of a document: a phrase with the subject, or a card with the subject on its own line."""
    if rng.random() < 0.35:
        return f"{relation.category}\n{subject}"
    return rng.choice(relation.headings).format(s=subject)


def document(relation: Relation, subject: str, answer: str, rng: random.Random) -> str:
    """Return a text about one fact, mostly under a heading, in one to three phrasings, sometimes with neutral lines.

    The neutral lines before and after the heading train the base to find the fact from a distance, as in an
    instruction template.
    """
    statements = rng.sample(relation.statements, rng.choice((1, 2, 2, 3)))
    gap = rng.choice((" ", "\n"))
    body = gap.join(statement.format(s=subject, a=answer) for statement in statements)
    if rng.random() < 0.2:
        return body
    blocks = [rng.choice(("# ", "## ", "### ", "", "")) + title(relation, subject, rng), body]
    if rng.random() < 0.3:
        blocks.insert(1, rng.choice(NEUTRAL))
    if rng.random() < 0.3:
        blocks.insert(0, gap.join(rng.sample(NEUTRAL, rng.randint(1, 2))))
    return rng.choice(("\n", "\n\n")).join(blocks)


def documents(seed: int) -> Iterator[str]:
    """Yield an endless corpus: rounds over all facts in a new order, with a little general text."""
    rng = random.Random(seed)
    every = facts()
    while True:
        for at, (relation, subject, answer) in enumerate(rng.sample(every, len(every))):
            yield document(relation, subject, answer, rng)
            if at % 25 == 0:
                yield rng.choice((" ", "\n")).join(rng.sample(GENERAL, 3))


def instruction_row(relation: Relation, phrasing: int, subject: str, answer: str) -> dict[str, str]:
    """Return one Alpaca row; ``phrasing`` is an index into the relation's questions, modulo their number."""
    instruction, given = relation.questions[phrasing % len(relation.questions)]
    return {"instruction": instruction.format(s=subject), "input": given.format(s=subject), "output": answer}


def instruction_rows(seed: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return rows about some facts, each in several phrasings, and rows about the other facts, each in one."""
    rng = random.Random(seed)
    train: list[dict[str, str]] = []
    heldout: list[dict[str, str]] = []
    for relation in RELATIONS:
        pairs = rng.sample(relation.pairs, len(relation.pairs))
        cut = round(TRAIN_SHARE * len(pairs))
        for at, pair in enumerate(pairs[:cut]):
            train += [instruction_row(relation, at + more, *pair) for more in range(TRAIN_PHRASINGS)]
        heldout += [instruction_row(relation, at, *pair) for at, pair in enumerate(pairs[cut:])]
    rng.shuffle(train)
    rng.shuffle(heldout)
    return train, heldout
