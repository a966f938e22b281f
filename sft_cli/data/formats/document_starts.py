"""Find the starts of documents that another tool packed into one row of token ids."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from sft_cli.config.overrides.quoting import format_override
from sft_cli.data.formats.fields import Fields, parse_list, wrong_type
from sft_cli.data.row_errors import RowError, format_list, short_repr

POSITIONS = "position_ids"
"""Column of positions that restart at 0 with each document."""
LENGTHS = ("seq_lengths", "sequence_lengths", "seq_lens", "seqlens")
"""Columns of the number of tokens of each document, in order."""
ENDS = "cu_seqlens"
"""Column of 0 and the end of each document."""
SEGMENTS = ("document_ids", "segment_ids", "sequence_ids", "seq_idx", "doc_ids")
"""Columns of a document number for each token; an attention mask with numbers above 1 is one, too."""
COLUMNS = (POSITIONS, *LENGTHS, ENDS, *SEGMENTS)


def find_document_starts(fields: Fields, kept: range, num_ids: int, trained: Sequence[bool]) -> list[int]:
    """Return the tokens at which documents begin, ascending; the first is that of ``kept``.

    Args:
        fields: The row.
        kept: The tokens that are not padding.
        num_ids: Tokens of the row, padding included.
        trained: ``(num_ids,)``: whether each token carries loss.

    Raises:
        RowError: A column is invalid, or two of them contradict each other.
    """
    starts_by_column: dict[str, list[int]] = {}
    last_trained = max((t for t in kept if trained[t]), default=kept.start)
    for name in (*COLUMNS, "attention_mask"):
        if (
            fields.values.get(name) is not None
            and (column_starts := _starts_in(fields, name, kept, num_ids)) is not None
        ):
            starts_by_column[name] = sorted({kept.start, *(start for start in column_starts if start in kept)})
    if not starts_by_column:
        return [kept.start]
    (first, agreed), *others = starts_by_column.items()
    for name, other in others:
        # After the last trained token there is only padding, which columns may or may not count as a document.
        if [start for start in other if start <= last_trained] != [start for start in agreed if start <= last_trained]:
            problem = (
                f"gives document starts {format_list(map(str, other))}, but {fields.columns[first]} gives"
                f" {format_list(map(str, agreed))}"
            )
            left_out = format_override(f"data.mix.{fields.row.source}.ignore", [fields.columns[name]])
            raise invalid_column(fields, name, problem, f"{left_out} if {fields.columns[first]} is right")
    return agreed


def _starts_in(fields: Fields, name: str, kept: range, num_ids: int) -> list[int] | None:
    """Return the document starts that one column gives; None where it gives none."""
    if name == POSITIONS:
        return _by_position(fields, kept, integer_column(fields, name, num_ids))
    if name in LENGTHS or name == ENDS:
        return _by_length(fields, name, kept, num_ids)
    numbers = token_numbers(fields, name, num_ids)
    if name == "attention_mask" and max(numbers) <= 1:
        return None
    return [t for t in kept if t > kept.start and numbers[t] != numbers[t - 1]]


def _by_position(fields: Fields, kept: range, positions: list[int]) -> list[int]:
    """Return the tokens at position 0; all other positions must count up by one."""
    if positions[kept.start] != 0:
        problem = f"begins with {positions[kept.start]}, in the middle of a document"
        raise invalid_column(fields, POSITIONS, problem, "write whole documents, with positions from 0")
    for before, t in pairwise(kept):
        if positions[t] not in (0, positions[before] + 1):
            problem = f"is {positions[t]} at token {t}, after {positions[before]}"
            raise invalid_column(fields, POSITIONS, problem, "write positions that count up by one, or restart at 0")
    return [t for t in kept if positions[t] == 0]


def _by_length(fields: Fields, name: str, kept: range, num_ids: int) -> list[int]:
    """Return the running sums of the document lengths, which cover all tokens or those that are not padding."""
    values = integer_column(fields, name)
    if name == ENDS:
        values = [end - start for start, end in pairwise(values)] if values[0] == 0 else [-1]
    if min(values, default=0) < 0:
        raise invalid_column(fields, name, "does not ascend from 0", "write 0 and the end of each document")
    total = sum(values)
    if total not in (num_ids, len(kept)):
        raise invalid_column(
            fields, name, f"adds up to {total} for {num_ids} token ids", "write the length of each document"
        )
    offset = 0 if total == num_ids else kept.start
    return [offset + start for start in accumulate(values[:-1], initial=0)]


def token_numbers(fields: Fields, name: str, num_ids: int) -> list[int]:
    """Return a column of one number of at least 0 for each token."""
    numbers = integer_column(fields, name, num_ids)
    if min(numbers) < 0:
        raise invalid_column(fields, name, f"holds {min(numbers)}", "write numbers of at least 0")
    return numbers


def integer_column(fields: Fields, name: str, length: int | None = None) -> list[int]:
    """Return a column of integers of the given length; true and false count as 1 and 0 in a mask."""
    value: Any = parse_list(fields.values[name])
    allowed = {int} if name in ("input_ids", "labels") else {int, bool}
    if not isinstance(value, list) or not set(map(type, value)) <= allowed:
        raise wrong_type(value, fields.columns[name], "a list of whole numbers", fields.row.where)
    if length is None and not value:
        raise invalid_column(fields, name, "has no tokens", "remove the row")
    if length is not None and len(value) != length:
        raise invalid_column(
            fields, name, f"has {len(value)} entries for {length} token ids", "write one for each token"
        )
    return list(map(int, value))


def invalid_column(fields: Fields, name: str, problem: str, fix: str) -> RowError:
    """Return the error for a column with invalid numbers."""
    column = fields.columns[name]
    return RowError(
        where=fields.row.where, reason=f"invalid {name}", problem=f"field {short_repr(column)} {problem}", fix=fix
    )
