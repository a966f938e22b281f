"""Items with instructions, and whether an answer follows one."""

from typing import Any

from sft_cli.scoring.instructions.read import read_instructions
from sft_cli.scoring.instructions.tables import Form
from sft_cli.scoring.types import Item


def item(*instructions: tuple[str, dict[str, Any]], **fields: Any) -> Item:
    """Return an item with instructions."""
    ids, kwargs = [id for id, _ in instructions], [kwargs for _, kwargs in instructions]
    return Item("7", (), fields={"instruction_id_list": ids, "kwargs": kwargs, **fields})


def is_followed(form: Form, id: str, kwargs: dict[str, Any], answer: str) -> bool:
    """Return whether an answer strictly follows one instruction."""
    return read_instructions(item((id, kwargs)), form)[0].is_followed(answer)
