"""Read the system message that a row keeps in its own column."""

from sft_cli.data.formats.content_parts import parse_content
from sft_cli.data.formats.fields import Fields
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError
from sft_cli.types import Message

COLUMNS = ("system", "system_prompt", "instructions")
"""Names of the column: LLaMA-Factory, ms-swift and Anthropic; OpenOrca; OpenAI's Responses."""


def system_text(fields: Fields, context: RowContext) -> tuple[str, str]:
    """Return the column of a row's system message, and its text; two empty texts if the row has none.

    Raises:
        RowError: Two columns hold different system messages.
    """
    columns: list[tuple[str, str]] = []
    for name in COLUMNS:
        value = fields.values.get(name)
        if value is not None:
            column = fields.columns[name]
            text = parse_content(value, "system", column, column, context).text
            columns += [(column, text)] if text.strip() else []
    if len({text for _, text in columns}) > 1:
        (first, _), (second, _), *_ = columns
        raise RowError(
            where=context.where,
            reason="two system messages",
            problem=f"fields {first!r} and {second!r} hold different system messages",
            fix="keep one of them",
        )
    return columns[0] if columns else ("", "")


def system_messages(fields: Fields, context: RowContext) -> list[Message]:
    """Return the system message of a column as a list of one message; an empty list if the row has none."""
    _, text = system_text(fields, context)
    return [Message("system", text)] if text else []
