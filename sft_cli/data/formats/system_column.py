"""The system message that a row keeps in a column of its own."""

from sft_cli.data.formats.content_parts import parse_content
from sft_cli.data.formats.fields import Fields
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError
from sft_cli.types import Message

COLUMNS = ("system", "system_prompt", "instructions")
"""Names of the column: LLaMA-Factory, ms-swift and Anthropic; OpenOrca; OpenAI's Responses."""


def system_text(fields: Fields, context: RowContext) -> tuple[str, str]:
    """The column that holds a row's system message, and its text; two empty texts if there is none.

    Raises:
        RowError: Two columns hold different ones.
    """
    found: list[tuple[str, str]] = []
    for name in COLUMNS:
        value = fields.values.get(name)
        if value is not None:
            column = fields.columns[name]
            text = parse_content(value, "system", column, column, context).text
            found += [(column, text)] if text.strip() else []
    if len({text for _, text in found}) > 1:
        (first, _), (second, _), *_ = found
        raise RowError(
            where=context.where,
            reason="two system messages",
            problem=f"fields {first!r} and {second!r} hold different system messages",
            fix="keep one of them",
        )
    return found[0] if found else ("", "")


def system_messages(fields: Fields, context: RowContext) -> list[Message]:
    """The system message of a column, as a list of one; empty if there is none."""
    _, text = system_text(fields, context)
    return [Message("system", text)] if text else []
