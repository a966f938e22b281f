"""Read the instructions of items, and correct the published arguments that contradict the prompts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sft_cli.errors import SftError, raise_all
from sft_cli.scoring.instructions.base import Instruction
from sft_cli.scoring.instructions.ifeval_keywords import counted_letter
from sft_cli.scoring.instructions.kwargs import read_kwargs
from sft_cli.scoring.instructions.tables import TABLES, Form
from sft_cli.scoring.types import Item
from sft_cli.utils.similar import closest_name

IDS, KWARGS, KEY = "instruction_id_list", "kwargs", "key"
"""The fields of an item with the ids of its instructions, their arguments in the same order, and its number."""


class Correction(NamedTuple):
    """Arguments of a published item that contradict its prompt; ``right`` is None if the prompt contradicts itself."""

    id: str
    wrong: Mapping[str, Any]
    right: Mapping[str, Any] | None


CORRECTIONS = {
    "337": Correction(
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 336},
        {"relation": "at least", "num_words": 400},
    ),
    "2078": Correction("detectable_format:number_bullet_lists", {"num_bullets": 1}, None),
}
"""Number of an IFEval item -> its correction. Item 2078 asks for exactly one bullet point and for a few."""


def read_instructions(item: Item, form: Form) -> list[Instruction]:
    """Return the instructions of an item.

    The form ``ifeval_fixed`` corrects arguments, counts an instruction that is given twice once, and leaves out one
    that contradicts itself; an item may then have no instructions.

    Raises:
        SftError: If the item has no instructions, an id is unknown, or an argument is unknown, missing or wrong.
    """
    instructions = []
    for id, kwargs in _pairs(item):
        where = f"item {item.id}, {id}"
        if id not in TABLES[form]:
            near = closest_name(id, TABLES[form])
            fix = f"did you mean {near}?" if near else f"use an id of {form}, such as {next(iter(TABLES[form]))}"
            raise SftError(where=where, problem=f"{form} has no instruction with this id", fix=fix)
        kind = TABLES[form][id]
        instructions.append(Instruction(id, kind, read_kwargs(kind.check, kwargs, where)))
    return _unique(_corrected(item, instructions)) if form == "ifeval_fixed" else instructions


def check_items(items: Iterable[Item], form: Form) -> None:
    """Raise an error that names every item whose instructions cannot be checked."""
    errors = []
    for item in items:
        try:
            read_instructions(item, form)
        except SftError as error:
            errors.append(error)
    raise_all(errors)


def items_that_may_differ(items: Iterable[Item]) -> list[str]:
    """Return the ids of the items that ``ifeval`` and ``ifeval_fixed`` can judge differently for some answer."""
    return [item.id for item in items if may_differ(item)]


def may_differ(item: Item) -> bool:
    """Return whether ``ifeval`` and ``ifeval_fixed`` can judge an answer to the item differently."""
    published, corrected = read_instructions(item, "ifeval"), read_instructions(item, "ifeval_fixed")
    if [(one.id, one.kwargs) for one in published] != [(other.id, other.kwargs) for other in corrected]:
        return True
    return any(
        one.type.check is not other.type.check and _affected(one)
        for one, other in zip(published, corrected, strict=True)
    )


def _affected(instruction: Instruction) -> bool:
    """Return whether the arguments of an instruction are such that its corrected check differs."""
    kwargs = instruction.kwargs
    match instruction.id:
        case "keywords:letter_frequency":
            return kwargs["letter"].lower() != counted_letter(kwargs["letter"])
        case "keywords:existence" | "keywords:forbidden_words":
            return any(map(_is_pattern, *kwargs.values()))
        case "keywords:frequency":
            return _is_pattern(kwargs["keyword"])
        case "detectable_content:postscript":
            return kwargs["postscript_marker"].strip() not in ("P.S.", "P.P.S")
        case "detectable_format:multiple_sections":
            return _is_pattern(kwargs["section_spliter"])
    return True


def _is_pattern(text: str) -> bool:
    """Return whether a text has characters with a meaning in regular expressions."""
    return any(character in r"\.^$*+?{}[]|()" for character in text)


def _pairs(item: Item) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return the ids and arguments of an item's instructions."""
    ids, kwargs = item.fields.get(IDS), item.fields.get(KWARGS)
    where, fix = f"item {item.id}", f"give each item {IDS}, a list of ids, and {KWARGS}, a list of as many objects"
    if not isinstance(ids, list | tuple) or not ids or not all(isinstance(id, str) for id in ids):
        raise SftError(where=where, problem=f"{IDS} is not a list of ids", fix=fix)
    if not isinstance(kwargs, list | tuple) or not all(isinstance(one, Mapping) for one in kwargs):
        raise SftError(where=where, problem=f"{KWARGS} is not a list of objects", fix=fix)
    if len(ids) != len(kwargs):
        raise SftError(where=where, problem=f"{len(ids)} instructions have {len(kwargs)} kwargs", fix=fix)
    return list(zip(ids, kwargs, strict=True))


def _corrected(item: Item, instructions: list[Instruction]) -> list[Instruction]:
    """Return the instructions with the arguments that the item's prompt asks for."""
    correction = CORRECTIONS.get(str(item.fields.get(KEY)))
    if correction is None:
        return instructions
    result = []
    for one in instructions:
        if (one.id, one.kwargs) != (correction.id, correction.wrong):
            result.append(one)
        elif correction.right is not None:
            result.append(Instruction(one.id, one.type, correction.right))
    return result


def _unique(instructions: list[Instruction]) -> list[Instruction]:
    """Return the instructions without repetitions."""
    return [one for place, one in enumerate(instructions) if one not in instructions[:place]]
