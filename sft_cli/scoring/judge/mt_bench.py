"""The questions of MT-Bench: two turns each, with the references of the questions file.

The separate file of reference answers is not read: 13 of its 30 answers are wrong (FastChat, pull request 3158).
Ratings come from prompts of this package, so they are not comparable with published ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_cli.errors import SftError
from sft_cli.scoring.types import Item

NAME = "mt_bench"


def first_turns(file: Path) -> list[Item]:
    """Return the first turn of each question.

    Raises:
        SftError: A line has no ``question_id`` or no two ``turns``.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    return [_first_turn(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def second_turns(items: Sequence[Item], answers: Mapping[str, str]) -> list[Item]:
    """Return the second turn of each question, after the model's own answer to the first.

    Args:
        items: The first turns.
        answers: The answers to them by the ids of the items; a question without one is left out.
    """
    found = []
    for item in items:
        if item.id not in answers:
            continue
        turns, references = item.fields["turns"], item.fields.get("reference") or []
        reply = {"role": "assistant", "content": answers[item.id]}
        messages = (*item.messages, reply, {"role": "user", "content": turns[1]})
        target = (references[1],) if len(references) > 1 else ()
        name, tags = f"{item.cluster}.2", {**item.tags, "turn": "2"}
        found.append(replace(item, id=name, messages=messages, target=target, tags=tags))
    return found


def _first_turn(line: str, where: str) -> Item:
    """Return the first turn of the question on a line."""
    fields = _fields(line)
    if fields is None:
        problem = "expected an object with question_id and two turns, as in MT-Bench's question.jsonl"
        fix = 'a line such as {"question_id": 81, "category": "writing", "turns": ["…", "…"]}'
        raise SftError(where=where, problem=problem, fix=fix)
    name, references = str(fields["question_id"]), fields.get("reference") or []
    return Item(
        id=f"{name}.1",
        messages=({"role": "user", "content": fields["turns"][0]},),
        target=(references[0],) if references else (),
        fields=fields,
        cluster=name,
        tags={"category": str(fields.get("category", "")), "turn": "1"},
    )


def _fields(line: str) -> dict[str, Any] | None:
    """Return the fields of a question; None if the line is none."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    turns = fields.get("turns") if isinstance(fields, dict) and "question_id" in fields else None
    is_question = isinstance(turns, list) and len(turns) == 2 and all(isinstance(turn, str) for turn in turns)
    return fields if is_question else None
